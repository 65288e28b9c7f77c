import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { resourceExhausted } from '@plumb/kit/errors';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import type { Component } from './pipeline-folder.ts';

/** Where a component runs. */
export type Device = 'cpu' | 'cuda';

/** A component that shall be run. */
export interface PlacedComponent {
  readonly component: Component;
  readonly device: Device;
}

/** The graphs of a pipeline in one engine, loaded when they are needed and unloaded when they are in the way. */
export interface ComponentSessions {
  /**
   * Runs a component, loading it first where it is not loaded, after unloading those that were used least recently
   * until it fits into the budget.
   * @throws PlumbError whatever the engine throws
   */
  run(
    component: Component,
    feeds: Readonly<Record<string, TypedTensor>>,
    signal?: AbortSignal,
  ): Promise<TypedTensor | undefined>;
  /** Names of the components that are loaded, the most recently used last. */
  readonly loaded: readonly string[];
  /** True when all components fit into the budget together. */
  readonly allFit: boolean;
  close(): Promise<void>;
}

let opened = 0;

/**
 * @param budgetBytes what the weights of the components on one device may take together; Infinity unless given
 * @throws PlumbError RESOURCE_EXHAUSTED naming a component that is over the budget on its own
 */
export function openComponents(
  engine: Engine,
  placed: readonly PlacedComponent[],
  budgetBytes = Infinity,
): ComponentSessions {
  for (const { component } of placed) {
    if (component.weightBytes <= budgetBytes) continue;
    throw resourceExhausted(
      `${component.path} has ${component.weightBytes} bytes of weights, more than the memory budget of ${budgetBytes}; raise the budget or export a smaller precision`,
    );
  }
  const deviceOf = new Map(placed.map(({ component, device }) => [component, device]));
  const prefix = `pipeline-${opened++}`;
  const nameOf = (component: Component): string => `${prefix}/${component.name}`;
  /** In the order of their use. */
  const loaded = new Set<Component>();
  let tail: Promise<unknown> = Promise.resolve();

  const load = async (component: Component): Promise<void> => {
    const device = deviceOf.get(component) ?? 'cpu';
    const neighbours = [...loaded].filter((other) => deviceOf.get(other) === device);
    let used = neighbours.reduce((sum, { weightBytes }) => sum + weightBytes, 0);
    for (const other of neighbours) {
      if (used + component.weightBytes <= budgetBytes) break;
      await engine.unload(nameOf(other));
      loaded.delete(other);
      used -= other.weightBytes;
    }
    await engine.load(nameOf(component), await readFile(component.path), {
      weightsFolder: resolve(dirname(component.path)),
      device,
    });
  };

  return {
    get loaded() {
      return [...loaded].map(({ name }) => name);
    },
    allFit: (['cpu', 'cuda'] as const).every(
      (device) =>
        placed
          .filter((each) => each.device === device)
          .reduce((sum, { component }) => sum + component.weightBytes, 0) <= budgetBytes,
    ),
    run(component, feeds, signal) {
      // One after the other: what one call loads must not be unloaded by the next before it has run.
      const result = tail.then(async () => {
        signal?.throwIfAborted();
        if (!loaded.has(component)) await load(component);
        loaded.delete(component);
        loaded.add(component);
        const { name } = component.output;
        const outputs = await engine.run(
          nameOf(component),
          feeds,
          [name],
          signal === undefined ? {} : { signal },
        );
        return outputs[name];
      });
      tail = result.catch(() => undefined);
      return result;
    },
    async close() {
      await tail;
      for (const component of loaded) await engine.unload(nameOf(component));
      loaded.clear();
    },
  };
}
