import { availableParallelism } from 'node:os';
import { cancelled, invalidArgument, notFound, unavailable } from '@plumb/kit/errors';
import type { Engine } from './engine.ts';
import type { Session, SessionOptions } from './session.ts';
import { openSession } from './session.ts';
import type { TrainingSession } from './training-session.ts';
import { openTrainingSession } from './training-session.ts';
import type { TypedTensor } from './typed-tensor.ts';

/**
 * An engine in the calling thread, for scripts, tests and inside the other forms. Runs block the thread.
 * @throws PlumbError INVALID_ARGUMENT for a number of threads that is not a positive integer
 */
export function openInThread(options: SessionOptions = {}): Engine {
  const threads = options.intraOpThreads ?? availableParallelism();
  if (!Number.isInteger(threads) || threads < 1) {
    throw invalidArgument('intraOpThreads', `${threads} must be a positive integer`);
  }
  const models = new Map<string, Session>();
  const trainings = new Map<string, TrainingSession>();
  const ended = Promise.withResolvers<undefined>();
  let trainingCount = 0;
  let closed = false;

  const check = (): void => {
    if (closed) throw unavailable('the engine is closed; open another', { reason: 'SHUTTING_DOWN' });
  };
  const model = (name: string): Session => {
    const session = models.get(name);
    if (session !== undefined) return session;
    throw notFound('model', name, { fix: 'load it into the engine first', reason: 'MODEL_NOT_FOUND' });
  };
  const training = (id: string): TrainingSession => {
    check();
    const session = trainings.get(id);
    if (session === undefined) throw notFound('training', id, { fix: 'open it with openTraining' });
    return session;
  };

  return {
    async load(name, onnx, needs) {
      check();
      const session = await openSession(name, onnx, { ...options, ...needs, intraOpThreads: threads });
      const replaced = models.get(name);
      models.set(name, session);
      await replaced?.close();
    },
    async unload(name) {
      const session = models.get(name);
      models.delete(name);
      await session?.close();
    },
    async run(name, feeds, outputs, { signal } = {}) {
      check();
      if (signal?.aborted === true) throw cancelled();
      return model(name).run(feeds, outputs);
    },
    async iterate(name, feeds, { carry, steps }, { signal } = {}) {
      check();
      if (steps.length === 0) throw invalidArgument('iteration.steps', 'is empty; give at least one');
      const session = model(name);
      const wanted = [...new Set(Object.values(carry))];
      let carried: Record<string, TypedTensor> = {};
      let outputs: Record<string, TypedTensor> = {};
      for (const step of steps) {
        if (signal?.aborted === true) throw cancelled();
        outputs = await session.run({ ...feeds, ...carried, ...step }, wanted);
        carried = Object.fromEntries(
          Object.entries(carry).flatMap(([input, output]) => {
            const tensor = outputs[output];
            return tensor === undefined ? [] : [[input, tensor]];
          }),
        );
      }
      return outputs;
    },
    async openTraining(
      name,
      program,
      state,
      { device = 'cpu', lanes = device === 'cpu' ? threads : 1 } = {},
    ) {
      check();
      const session = await openTrainingSession(name, program, state, {
        lanes,
        intraOpThreads: threads,
        device,
      });
      trainingCount += 1;
      const id = `${name}#${trainingCount}`;
      trainings.set(id, session);
      return id;
    },
    async trainStep(id, feeds, scalars, { signal } = {}) {
      if (signal?.aborted === true) throw cancelled();
      return training(id).step(feeds, scalars);
    },
    async measureTraining(id, feeds, name, outputs) {
      const parameters = training(id).parameters();
      const session = model(name);
      const own = session.inputs.flatMap(({ name: input }) => {
        const tensor = parameters.get(input);
        return tensor === undefined ? [] : [[input, tensor] as const];
      });
      return session.run({ ...feeds, ...Object.fromEntries(own) }, outputs);
    },
    async readTraining(id) {
      return training(id).state();
    },
    async restoreTraining(id, state) {
      training(id).restore(state);
    },
    async closeTraining(id) {
      const session = trainings.get(id);
      trainings.delete(id);
      await session?.close();
    },
    async close() {
      if (closed) return;
      closed = true;
      const open = [...models.values(), ...trainings.values()];
      models.clear();
      trainings.clear();
      await Promise.all(open.map((session) => session.close()));
      ended.resolve(undefined);
    },
    ended: ended.promise,
  };
}
