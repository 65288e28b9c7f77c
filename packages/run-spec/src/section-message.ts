import type { DescMessage, JsonValue, MessageShape } from '@bufbuild/protobuf';
import { fromJson } from '@bufbuild/protobuf';
import { describeError, invalidArgument } from '@plumb/kit/errors';

/**
 * A section of a spec as a message of ours.
 * @throws PlumbError INVALID_ARGUMENT naming the field and what the section takes
 */
export function message<S extends DescMessage>(schema: S, value: unknown, field: string): MessageShape<S> {
  try {
    return fromJson(schema, value as JsonValue);
  } catch (error) {
    const known = schema.fields.map(({ jsonName }) => jsonName).join(', ');
    throw invalidArgument(field, `${describeError(error)}; it takes ${known}`, { cause: error });
  }
}
