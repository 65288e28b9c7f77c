import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import { TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import * as fc from 'fast-check';
import { pointsCodec } from './points-codec.ts';

const point = fc
  .record({
    step: fc.nat(),
    loss: fc.double({ noNaN: true }),
    anchorDistance: fc.option(fc.double({ noNaN: true }), { nil: undefined }),
  })
  .map(({ anchorDistance, ...rest }) =>
    create(TrainingProgressSchema, { ...rest, ...(anchorDistance === undefined ? {} : { anchorDistance }) }),
  );

test('points come back as they were', () => {
  fc.assert(
    fc.property(fc.array(point), (points) => {
      assert.deepEqual(pointsCodec.decode(pointsCodec.encode(points)), points);
    }),
  );
});

test('bytes that were cut are an error', () => {
  const bytes = pointsCodec.encode([create(TrainingProgressSchema, { step: 1, loss: 2 })]);
  assert.throws(
    () => pointsCodec.decode(bytes.subarray(0, -1)),
    (error: unknown) => error instanceof PlumbError && error.code === 'DATA_LOSS',
  );
});
