import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import fc from 'fast-check';
import { modelFixture, specFixture } from '../testing/run-spec-fixture.ts';
import { groups } from './groups.ts';
import type { Group } from './groups.ts';
import { isComplete, plan, stageOf } from './plan.ts';
import type { Action, GroupCounts, IterationSnapshot, PlanLimits, Queue } from './plan.ts';
import { groupSize, plannedSamples } from './sample-plan.ts';

const spec = specFixture();
const base = modelFixture();
const candidate = modelFixture('c'.repeat(64));
const limits: PlanLimits = {
  iterations: 1,
  maxErrorShare: 0.05,
  maxOutstanding: 4,
  republishAfterSeconds: 60,
};

const counted = (changes: Partial<GroupCounts> = {}): GroupCounts => ({
  expected: 4,
  rows: 4,
  toGenerate: 0,
  generating: 0,
  toScore: 0,
  scoring: 0,
  scored: 0,
  failed: 0,
  ...changes,
});

const kindsOf = (groupCounts: IterationSnapshot['groups'], changes: Partial<PlanLimits> = {}): string[] =>
  plan({ ...new LedgerModel().snapshot(), groups: groupCounts }, { ...limits, ...changes }).map((action) =>
    action.kind === 'publish' ? `publish ${action.queue} ${action.limit}` : action.kind,
  );

describe('budgets and stages in sequence', () => {
  const train = counted({ toGenerate: 2, toScore: 2 });
  const none = counted({ rows: 0 });

  test('in sequence no clip is scored before all are made, and no held-out clip made before training', () => {
    const begun = { train, before: none, after: none };
    assert.deepEqual(kindsOf(begun), ['insert-samples', 'publish generate 2', 'publish score 2']);
    assert.deepEqual(kindsOf(begun, { sequential: true }), ['publish generate 2']);
    const made = { ...begun, train: counted({ toScore: 4 }) };
    assert.deepEqual(kindsOf(made, { sequential: true }), ['publish score 4']);
  });

  test('no more clips are asked for than the budget has, and the run pauses when what is out is back', () => {
    const begun = { train: counted({ toGenerate: 4 }), before: counted({ scored: 4 }), after: none };
    assert.deepEqual(kindsOf(begun, { samplesLeft: 1 }), ['publish generate 1']);
    assert.deepEqual(kindsOf(begun, { samplesLeft: 0 }), ['pause']);
    const out = { ...begun, train: counted({ toGenerate: 3, generating: 1 }) };
    assert.deepEqual(kindsOf(out, { samplesLeft: 0 }), []);
  });

  test('no job is begun beyond the budget of steps, and nothing at all beyond that of time', () => {
    const ready = { train: counted({ scored: 4 }), before: counted({ scored: 4 }), after: none };
    const error = failedPrecondition('used up');
    assert.deepEqual(kindsOf(ready), ['freeze']);
    assert.deepEqual(kindsOf(ready, { budget: error }), ['pause']);
    const frozen = { ...new LedgerModel().snapshot(), groups: ready, dataSetFrozen: true };
    const [action] = plan(frozen, { ...limits, trainingBudget: error });
    assert.deepEqual(action, { kind: 'pause', error });
  });
});

type State = 'planned' | 'generating' | 'generated' | 'scoring' | 'scored';

/** The ledger's rules in memory: what a row is, and how an action or a result changes it. */
class LedgerModel {
  readonly samples = new Map<string, { group: Group; state: State }>();
  dataSetFrozen = false;
  job: 'absent' | 'running' | 'succeeded' = 'absent';
  registered = false;
  evaluated = false;
  decision: 'none' | 'decided' | 'applied' = 'none';
  state: IterationSnapshot['state'] = 'running';
  jobsCreated = 0;
  idle = 0;

  counts(group: Group): GroupCounts {
    const rows = [...this.samples.values()].filter((sample) => sample.group === group);
    const count = (state: State): number => rows.filter((row) => row.state === state).length;
    return {
      expected: groupSize(spec, group),
      rows: rows.length,
      toGenerate: count('planned'),
      generating: count('generating'),
      toScore: count('generated'),
      scoring: count('scoring'),
      scored: count('scored'),
      failed: 0,
    };
  }

  snapshot(): IterationSnapshot {
    return {
      state: this.state,
      iteration: 1,
      groups: { train: this.counts('train'), before: this.counts('before'), after: this.counts('after') },
      dataSetFrozen: this.dataSetFrozen,
      job: { state: this.job },
      candidateRegistered: this.registered,
      evaluated: this.evaluated,
      decision: this.decision,
      idleSeconds: { generate: this.idle, score: this.idle },
    };
  }

  /** Applies the first `share` of an action: a kill in its middle leaves the rest undone. */
  apply(action: Action, share: number): void {
    switch (action.kind) {
      case 'insert-samples': {
        const planned = [...planOf(action.group)];
        for (const { id } of planned.slice(0, Math.ceil(planned.length * share))) {
          if (!this.samples.has(id)) this.samples.set(id, { group: action.group, state: 'planned' });
        }
        return;
      }
      case 'publish': {
        const [from, to] =
          action.queue === 'generate'
            ? (['planned', 'generating'] as const)
            : (['generated', 'scoring'] as const);
        let left = Math.ceil(action.limit * share);
        for (const sample of this.samples.values()) {
          if (left > 0 && sample.state === from) {
            sample.state = to;
            left -= 1;
          }
        }
        return;
      }
      case 'republish': {
        const [from, to] =
          action.queue === 'generate'
            ? (['generating', 'planned'] as const)
            : (['scoring', 'generated'] as const);
        for (const sample of this.samples.values()) if (sample.state === from) sample.state = to;
        this.idle = 0;
        return;
      }
      case 'freeze':
        this.dataSetFrozen = true;
        return;
      case 'train':
        this.job = 'running';
        this.jobsCreated += 1;
        return;
      case 'watch-training':
        return;
      case 'register':
        this.registered = true;
        return;
      case 'evaluate':
        this.evaluated = true;
        return;
      case 'decide':
        this.decision = 'decided';
        return;
      case 'apply':
        this.decision = 'applied';
        return;
      case 'finish':
        this.state = 'succeeded';
        return;
      case 'next-iteration':
      case 'pause':
      case 'fail':
        assert.fail(`unexpected ${action.kind}`);
    }
  }

  /** Workers finish some of what is out, and lose the rest when `lost`. */
  work(share: number, lost: boolean): void {
    const done = { generating: 'generated', scoring: 'scored' } as const;
    const out = [...this.samples.values()].filter(
      (sample) => sample.state === 'generating' || sample.state === 'scoring',
    );
    for (const sample of out.slice(0, Math.ceil(out.length * share))) {
      if (sample.state === 'generating' || sample.state === 'scoring') sample.state = done[sample.state];
    }
    if (lost) this.idle = limits.republishAfterSeconds;
    if (this.job === 'running' && share > 0.5) this.job = 'succeeded';
  }
}

function planOf(group: Group) {
  const model = group === 'after' ? candidate : base;
  return plannedSamples({ spec, runId: 'run-1', iteration: 1, group, model });
}

const expectedIds = groups.flatMap((group) => [...planOf(group)].map(({ id }) => id));

describe('plan', () => {
  test('from any partial ledger, with kills anywhere, it ends with the same samples and nothing twice', () => {
    const sampleState = fc.constantFrom<State>('planned', 'generating', 'generated', 'scoring', 'scored');
    const trainAndBefore = [...planOf('train'), ...planOf('before')];
    fc.assert(
      fc.property(
        fc.array(fc.option(sampleState, { nil: undefined }), {
          minLength: trainAndBefore.length,
          maxLength: trainAndBefore.length,
        }),
        fc.array(fc.nat(99), { maxLength: 400 }),
        (states, chances) => {
          // Trouble ends some time: then nothing is killed or lost any more.
          const chance = chances.values();
          const random = (): number => (chance.next().value ?? 99) / 100;
          const ledger = new LedgerModel();
          for (const [index, { id, group }] of trainAndBefore.entries()) {
            const state = states[index];
            if (state !== undefined) ledger.samples.set(id, { group, state });
          }
          let rounds = 0;
          while (ledger.state === 'running') {
            rounds += 1;
            assert.ok(rounds < 2_000, 'it does not converge');
            for (const action of plan(ledger.snapshot(), limits)) {
              const killed = random() < 0.2;
              ledger.apply(action, killed ? random() : 1);
              for (const queue of ['generate', 'score'] as const) checkBound(ledger, queue, action);
              if (killed) break;
            }
            ledger.work(random(), random() < 0.3 || rounds % 50 === 0);
          }
          assert.deepEqual([...ledger.samples.keys()].toSorted(), expectedIds.toSorted());
          assert.ok([...ledger.samples.values()].every(({ state }) => state === 'scored'));
          assert.equal(ledger.jobsCreated, 1);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('training waits for the training samples only; evaluation waits for both held-out groups', () => {
    const ledger = new LedgerModel();
    const fill = (group: Group, state: State): void => {
      for (const { id } of planOf(group)) ledger.samples.set(id, { group, state });
    };
    fill('train', 'scored');
    assert.ok(kinds(ledger).includes('freeze'));
    assert.ok(kinds(ledger).includes('insert-samples'));
    fill('before', 'scoring');
    ledger.dataSetFrozen = true;
    assert.deepEqual(kinds(ledger), ['train']);
    ledger.job = 'succeeded';
    assert.deepEqual(kinds(ledger), ['register']);
    ledger.registered = true;
    fill('after', 'scored');
    assert.deepEqual(kinds(ledger), []);
    fill('before', 'scored');
    assert.deepEqual(kinds(ledger), ['evaluate']);
    assert.equal(stageOf(ledger.snapshot()), 'evaluate');
    ledger.evaluated = true;
    assert.deepEqual(kinds(ledger), ['decide']);
    assert.equal(stageOf(ledger.snapshot()), 'gate');
  });

  test('an iteration is followed by the next until there are enough', () => {
    const snapshot = finished();
    assert.deepEqual(plan(snapshot, limits), [{ kind: 'finish' }]);
    assert.deepEqual(plan(snapshot, { ...limits, iterations: 2 }), [{ kind: 'next-iteration' }]);
  });

  test('nothing is done for a run that is not running', () => {
    for (const state of ['paused', 'succeeded', 'failed', 'cancelled'] as const) {
      assert.deepEqual(plan({ ...finished(), state }, limits), []);
    }
  });

  test('more errors than the spec bears pause the run with the counts', () => {
    const snapshot = new LedgerModel().snapshot();
    const failed = { ...snapshot.groups.train, rows: 12, scored: 11, failed: 1 };
    const [action] = plan({ ...snapshot, groups: { ...snapshot.groups, train: failed } }, limits);
    assert.ok(action?.kind === 'pause');
    assert.equal(action.error.reason, 'TOO_MANY_ERRORS');
    assert.match(action.error.message, /1 of 12 samples/);
    const borne = plan(
      { ...snapshot, groups: { ...snapshot.groups, train: failed } },
      { ...limits, maxErrorShare: 0.1 },
    );
    assert.ok(borne.every(({ kind }) => kind !== 'pause'));
    assert.ok(isComplete(failed));
  });

  test('a failed job pauses the run, unless the spec itself was refused', () => {
    const job = (error: ReturnType<typeof failedPrecondition>) => ({
      ...finished(),
      job: { state: 'failed', error } as const,
    });
    const [pause] = plan(job(failedPrecondition('the loss is not a number')), limits);
    assert.ok(pause?.kind === 'pause');
    assert.equal(pause.error.reason, 'JOB_FAILED');
    assert.match(pause.error.message, /the loss is not a number/);
    const [fail] = plan(job(invalidArgument('spec.objective', 'makes no sense')), limits);
    assert.equal(fail?.kind, 'fail');
  });
});

function checkBound(ledger: LedgerModel, queue: Queue, action: Action): void {
  const state = queue === 'generate' ? 'generating' : 'scoring';
  const out = [...ledger.samples.values()].filter((sample) => sample.state === state).length;
  if (action.kind === 'publish' && action.queue === queue) {
    // A ledger that began with more out than the limit may have more, but none is added.
    assert.ok(out <= Math.max(limits.maxOutstanding, out - action.limit), `${out} tasks are out in ${queue}`);
  }
}

function kinds(ledger: LedgerModel): string[] {
  return plan(ledger.snapshot(), limits)
    .map(({ kind }) => kind)
    .filter((kind) => kind !== 'publish');
}

function finished(): IterationSnapshot {
  const ledger = new LedgerModel();
  for (const group of groups)
    for (const { id } of planOf(group)) ledger.samples.set(id, { group, state: 'scored' });
  ledger.dataSetFrozen = true;
  ledger.job = 'succeeded';
  ledger.registered = true;
  ledger.evaluated = true;
  ledger.decision = 'applied';
  return ledger.snapshot();
}
