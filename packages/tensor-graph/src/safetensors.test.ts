import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { TypedTensor } from './engine/typed-tensor.ts';
import { readSafetensors, writeSafetensors } from './safetensors.ts';

const tensor = fc
  .record({
    shape: fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 3 }),
    kind: fc.nat({ max: 5 }),
    seed: fc.nat(),
  })
  .map(({ shape, kind, seed }): TypedTensor => {
    const size = shape.reduce((product, n) => product * n, 1);
    const numbers = Array.from({ length: size }, (_, index) => (seed + index) % 251);
    const options = [
      { dtype: 'float32', data: Float32Array.from(numbers) },
      { dtype: 'float64', data: Float64Array.from(numbers) },
      { dtype: 'float16', data: Uint16Array.from(numbers) },
      { dtype: 'int32', data: Int32Array.from(numbers) },
      { dtype: 'int64', data: BigInt64Array.from(numbers, (n) => BigInt(n)) },
      { dtype: 'bool', data: Uint8Array.from(numbers, (n) => n % 2) },
    ] as const;
    return { shape, ...(options[kind] ?? options[0]) };
  });

test('what is written is read, whatever the alignment of the bytes', () => {
  fc.assert(
    fc.property(
      fc.dictionary(
        fc.string().filter((name) => name !== '__metadata__'),
        tensor,
        { noNullPrototype: true },
      ),
      fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true }),
      fc.integer({ min: 0, max: 9 }),
      (tensors, metadata, offset) => {
        const written = writeSafetensors(new Map(Object.entries(tensors)), metadata);
        const moved = new Uint8Array(written.length + offset);
        moved.set(written, offset);
        const read = readSafetensors(moved.subarray(offset));
        assert.deepEqual(Object.fromEntries(read.tensors), tensors);
        assert.deepEqual(read.metadata, metadata);
      },
    ),
    { numRuns: 100 },
  );
});

test('bytes do not depend on the order of tensors', () => {
  const a: TypedTensor = { dtype: 'float32', shape: [1], data: Float32Array.of(1) };
  const b: TypedTensor = { dtype: 'bool', shape: [1], data: Uint8Array.of(1) };
  const one = writeSafetensors(
    new Map([
      ['a', a],
      ['b', b],
    ]),
    { x: '1', y: '2' },
  );
  const two = writeSafetensors(
    new Map([
      ['b', b],
      ['a', a],
    ]),
    { y: '2', x: '1' },
  );
  assert.deepEqual(one, two);
});

test('the layout is that of the specification', () => {
  const bytes = writeSafetensors(
    new Map([['w', { dtype: 'float32', shape: [2], data: Float32Array.of(1, 2) }]]),
  );
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  assert.deepEqual(JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))), {
    w: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
  });
  assert.equal((8 + length) % 8, 0);
  assert.equal(bytes.length, 8 + length + 8);
});

/** A file with the given header text and number of data bytes. */
function file(header: string, data: number): Uint8Array {
  const json = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + json.length + data);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

const entry = (from: number, to: number, shape = [(to - from) / 4], dtype = 'F32'): string =>
  JSON.stringify({ dtype, shape, data_offsets: [from, to] });

test('corruption is named', () => {
  const huge = new Uint8Array(16);
  new DataView(huge.buffer).setBigUint64(0, 2n ** 63n, true);
  const cases: [Uint8Array, RegExp][] = [
    [new Uint8Array(7), /has 7 bytes; the header length alone takes 8/],
    [huge, /has a header of 9223372036854775808 bytes/],
    [file('{}', 0).subarray(0, 9), /fewer than the 10 of its header/],
    [file('{"a"', 0), /header that is not JSON/],
    [file('[]', 0), /header that is not a JSON object/],
    [file(' {}', 0), /header that is not a JSON object/],
    [file(`{"a":${entry(0, 4)},"a":${entry(0, 4)}}`, 4), /names 'a' twice/],
    [file(`{"a":${entry(0, 4)},"\\u0061":${entry(0, 4)}}`, 4), /names 'a' twice/],
    [file('{"a":3}', 0), /describes tensor 'a' by something that is not an object/],
    [file(`{"a":${entry(0, 4, [1], 'Q7')}}`, 4), /gives tensor 'a' the dtype "Q7"/],
    [file(`{"a":${entry(0, 4, [-1])}}`, 4), /gives tensor 'a' a shape/],
    [file(`{"a":${entry(0, 4, [2 ** 40, 2 ** 40])}}`, 4), /a shape too large to count/],
    [file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}', 4), /data_offsets that are not two/],
    [file(`{"a":${entry(0, 8)}}`, 4), /puts tensor 'a' at bytes 0 to 8 of 4/],
    [file(`{"a":${entry(0, 4, [2])}}`, 4), /gives tensor 'a' 4 bytes; its dtype and shape need 8/],
    [file(`{"a":${entry(0, 8)},"b":${entry(4, 8)}}`, 8), /has tensor 'b' at byte 4, which overlaps/],
    [file(`{"a":${entry(0, 4)},"b":${entry(8, 12)}}`, 12), /has a hole of 4 bytes before tensor 'b'/],
    [file(`{"a":${entry(0, 4)}}`, 8), /has 4 bytes that belong to no tensor/],
    [file('{"__metadata__":{"a":1}}', 0), /whose value for 'a' is not a string/],
    [file('{"__metadata__":[]}', 0), /__metadata__ that is not an object/],
  ];
  for (const [bytes, message] of cases) {
    assert.throws(() => readSafetensors(bytes), { code: 'DATA_LOSS', message });
  }
});

test('no damaged file crashes the reader with anything but a typed error', () => {
  const good = writeSafetensors(
    new Map([
      ['a', { dtype: 'float32', shape: [2, 3], data: new Float32Array(6) }],
      ['b', { dtype: 'int64', shape: [], data: BigInt64Array.of(1n) }],
    ]),
    { config: '{}' },
  );
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 })), {
        minLength: 1,
        maxLength: 4,
      }),
      fc.nat({ max: good.length }),
      (changes, length) => {
        const bytes = good.slice();
        for (const [at, value] of changes) bytes[at] = value;
        for (const damaged of [bytes, bytes.subarray(0, length)]) {
          try {
            readSafetensors(damaged);
          } catch (error) {
            assert.equal((error as { code?: string }).code, 'DATA_LOSS');
          }
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('mistakes in writing are named', () => {
  const bad: TypedTensor = { dtype: 'float32', shape: [2], data: Float32Array.of(1) };
  assert.throws(() => writeSafetensors(new Map([['w', bad]])), {
    code: 'INVALID_ARGUMENT',
    message: /tensors\.w/,
  });
  assert.throws(() => writeSafetensors(new Map([['__metadata__', bad]])), /reserved name/);
});
