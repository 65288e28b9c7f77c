import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import type { z } from 'zod';
import { dataLoss } from '../errors/shorthand.ts';

/** How values of a key-value bucket are written. `Written` may be looser than `Read`. */
export interface Codec<Read, Written = Read> {
  encode(value: Written): Uint8Array;
  /** @throws PlumbError DATA_LOSS when the bytes are no such value */
  decode(bytes: Uint8Array): Read;
}

/** Protobuf messages; init objects may be written. */
export function messageCodec<M extends DescMessage>(schema: M): Codec<MessageShape<M>, MessageInitShape<M>> {
  return {
    encode: (init) => toBinary(schema, create(schema, init)),
    decode: (bytes) => {
      try {
        return fromBinary(schema, bytes);
      } catch (cause) {
        throw dataLoss(`a stored value is not a ${schema.typeName}`, {
          reason: 'MESSAGE_UNDECODABLE',
          cause,
        });
      }
    },
  };
}

/** JSON checked by a zod schema, on the way in and on the way out. */
export function jsonCodec<Schema extends z.ZodType>(
  schema: Schema,
): Codec<z.output<Schema>, z.input<Schema>> {
  return {
    encode: (value) => Buffer.from(JSON.stringify(schema.parse(value))),
    decode: (bytes) => {
      try {
        return schema.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
      } catch (cause) {
        throw dataLoss('a stored value is not the JSON it should be', {
          reason: 'MESSAGE_UNDECODABLE',
          cause,
        });
      }
    },
  };
}
