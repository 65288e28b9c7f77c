import { fromBinary } from '@bufbuild/protobuf';
import { sizeDelimitedEncode, sizeDelimitedPeek } from '@bufbuild/protobuf/wire';
import { dataLoss } from '@plumb/kit/errors';
import { TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

/** Points of a training curve as bytes: size-delimited messages, one after the other. */
export const pointsCodec = {
  encode(points: readonly TrainingProgress[]): Uint8Array {
    return Buffer.concat(points.map((point) => sizeDelimitedEncode(TrainingProgressSchema, point)));
  },

  /** @throws PlumbError DATA_LOSS when the bytes end in the middle of a point */
  decode(bytes: Uint8Array): TrainingProgress[] {
    const points: TrainingProgress[] = [];
    for (let at = 0; at < bytes.length;) {
      const next = sizeDelimitedPeek(bytes.subarray(at));
      const end = next.eof ? Infinity : at + next.offset + next.size;
      if (next.eof || end > bytes.length)
        throw dataLoss('stored training progress ends in the middle of a point');
      points.push(fromBinary(TrainingProgressSchema, bytes.subarray(at + next.offset, end)));
      at = end;
    }
    return points;
  },
};
