import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { z } from 'zod';
import { plumb } from './support/command-line.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb replay '));
after(() => rm(folder, { recursive: true, force: true }));
const timeout = 900_000;
const root = resolve(import.meta.dirname, '..');
const state = join(folder, 'original');
const work = join(folder, 'again');

/** A run of some seconds with every kind of signal: judge, held-out judge, guard. */
const spec = (seed: number): string => `
model: ${JSON.stringify(join(root, 'models/toybox/model.safetensors'))}
prompts: { set: ${JSON.stringify(join(root, 'prompts/toybox.json'))}, trainPerCategory: 2, heldoutPerCategory: 1 }
samplesPerPrompt: 2
sampler: { steps: 8 }
heldOutJudge: clip_score
optimisation: { steps: 4, batchSize: 4, warmupSteps: 0, checkpointEverySteps: 2 }
evaluation: { samplesPerPrompt: 2, guards: [motion_floor] }
seed: ${seed}
`;

const runSchema = z.object({ id: z.string() });
const differencesSchema = z.object({ differences: z.array(z.string()) });
const manifestSchema = z.object({ iterations: z.tuple([z.object({ evaluation: z.string() })]) });

const lastLine = (stdout: string): unknown => JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '');

async function runOf(seed: number): Promise<string> {
  const path = join(folder, `seed-${seed}.yaml`);
  await writeFile(path, spec(seed));
  const ended = await plumb(['run', 'create', path, '--json', '--state', state], folder);
  assert.equal(ended.code, 0, ended.stderr);
  return runSchema.parse(lastLine(ended.stdout)).id;
}

/** What a command that compares has found, and its exit code. */
async function compared(
  args: readonly string[],
): Promise<{ code: number | null; differences: readonly string[] }> {
  const { code, stdout, stderr } = await plumb(['run', ...args, '--state', state, '--json'], folder);
  assert.ok(code === 0 || code === 4, stderr);
  return { code, ...differencesSchema.parse(lastLine(stdout)) };
}

describe('run replay and run diff', () => {
  let first = '';
  const file = join(folder, 'run.json');
  let evaluation = '';

  before(
    async () => {
      first = await runOf(1);
      const written = await plumb(['run', 'manifest', first, '--state', state, '--output', file], folder);
      assert.equal(written.code, 0, written.stderr);
      evaluation = manifestSchema.parse(JSON.parse(await readFile(file, 'utf8'))).iterations[0].evaluation;
    },
    { timeout },
  );

  test('a run that is repeated on the same machine differs in nothing', { timeout }, async () => {
    assert.deepEqual(await compared(['replay', file, '--work', work]), { code: 0, differences: [] });
  });

  test(
    'an evaluation that is repeated differs in nothing, its intervals and its decision included',
    {
      timeout,
    },
    async () => {
      assert.deepEqual(await compared(['replay', evaluation, '--work', work]), { code: 0, differences: [] });
    },
  );

  test(
    'what was changed in an evaluation is named: a seed, a version of a reward, an interval, the decision',
    {
      timeout,
    },
    async () => {
      const scoreSchema = z.looseObject({ weightsHash: z.string() });
      const sampleSchema = z.looseObject({
        promptId: z.string(),
        seed: z.string(),
        scores: z.record(z.string(), scoreSchema),
      });
      const changed = z
        .looseObject({
          samples: z.looseObject({ before: z.array(sampleSchema), after: z.array(sampleSchema) }),
          result: z.looseObject({
            heldOut: z.looseObject({ difference: z.looseObject({ lower: z.number() }) }),
          }),
          decision: z.looseObject({ promoted: z.boolean() }),
        })
        .parse(JSON.parse(await readFile(artifactPath(evaluation), 'utf8')));
      const [sample] = changed.samples.before;
      const [partner] = changed.samples.after;
      const clipScore = partner?.scores['clip_score'];
      assert.ok(sample !== undefined && partner !== undefined && clipScore !== undefined);
      sample.seed = String(BigInt(sample.seed) + 1n);
      clipScore.weightsHash = '0'.repeat(64);
      changed.result.heldOut.difference.lower -= 1;
      changed.decision.promoted = !changed.decision.promoted;
      const path = join(folder, 'changed.json');
      await writeFile(path, JSON.stringify(changed));

      const { code, differences } = await compared(['replay', path, '--work', work]);
      assert.equal(code, 4);
      for (const pattern of [
        new RegExp(`^before ${sample.promptId} seed ${sample.seed}: clip `),
        new RegExp(`^after ${partner.promptId} seed ${partner.seed}: clip_score has another version`),
        /^result\.heldOut\.difference\.lower: /,
        /^decision\.promoted: /,
      ]) {
        assert.ok(
          differences.some((difference) => pattern.test(difference)),
          `${String(pattern)}\n${differences.join('\n')}`,
        );
      }
    },
  );

  test(
    'two runs of other seeds differ in the seed, and so in clips and in what was measured',
    {
      timeout,
    },
    async () => {
      const second = await runOf(2);
      assert.deepEqual(await compared(['diff', first, first]), { code: 0, differences: [] });
      const { code, differences } = await compared(['diff', first, second]);
      assert.equal(code, 4);
      for (const pattern of [/^spec\.seed: "1" and "2"$/, /training clips/, /held-out clips/, /\.result\./]) {
        assert.ok(
          differences.some((difference) => pattern.test(difference)),
          `${String(pattern)}\n${differences.join('\n')}`,
        );
      }
    },
  );

  test('a repetition has no address, and needs the weights of the original', { timeout }, async () => {
    const elsewhere = await plumb(['run', 'replay', file, '--address', '127.0.0.1:1'], folder);
    assert.notEqual(elsewhere.code, 0);
    assert.match(elsewhere.stderr, /unknown option '--address'/);
    const bare = await plumb(
      ['run', 'replay', file, '--state', join(folder, 'none'), '--work', work],
      folder,
    );
    assert.equal(bare.code, 1);
    assert.match(bare.stderr, /name its state folder with --state, or the store with PLUMB_ARTIFACTS/);
  });
});

function artifactPath(sha256: string): string {
  return join(state, 'artifacts', 'sha256', sha256.slice(0, 2), sha256);
}
