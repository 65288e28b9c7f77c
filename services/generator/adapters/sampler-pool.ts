import type { ClipSampler } from '@plumb/diffusion';
import { PlumbError } from '@plumb/kit/errors';
import { tracer, withSpan } from '@plumb/kit/telemetry';
import type { Logger } from '@plumb/kit/telemetry';
import type { Engine } from '@plumb/tensor-graph/engine';
import { LRUCache } from 'lru-cache';
import type { ModelWeights, Samplers } from '../domain/generation.ts';
import type { ModelLoader } from './load-model.ts';

export interface SamplerPoolOptions {
  readonly loadModel: ModelLoader;
  readonly openEngine: () => Promise<Engine>;
  /** Models that are kept loaded. */
  readonly maxModels: number;
  readonly logger: Logger;
}

/** A model with an engine of its own, so that a model that crashes its engine harms no other. */
interface Loaded {
  readonly engine: Engine;
  readonly sampler: ClipSampler;
}

/** The most recently used models, loaded. One that falls out is closed when its last use has ended. */
export class SamplerPool implements Samplers {
  readonly #options: SamplerPoolOptions;
  readonly #entries: LRUCache<string, PoolEntry>;
  readonly #closing = new Set<Promise<void>>();

  constructor(options: SamplerPoolOptions) {
    this.#options = options;
    this.#entries = new LRUCache<string, PoolEntry>({
      max: options.maxModels,
      dispose: (entry) => {
        const closing = entry.retire().finally(() => this.#closing.delete(closing));
        this.#closing.add(closing);
      },
    });
  }

  /** Loads a model, so that its first clip need not wait. */
  async preload(model: ModelWeights): Promise<void> {
    await this.use(model, () => Promise.resolve());
  }

  async use<T>(model: ModelWeights, body: (sampler: ClipSampler) => Promise<T>): Promise<T> {
    let entry = this.#entries.get(model.sha256);
    if (entry === undefined) {
      const attributes = { 'plumb.model.version': model.version };
      const loading = withSpan(tracer('plumb-generator'), 'load model', { attributes }, () =>
        this.#load(model),
      );
      entry = new PoolEntry(loading, this.#options.logger);
      this.#entries.set(model.sha256, entry);
    }
    try {
      return await entry.use(body);
    } catch (thrown) {
      const error = PlumbError.from(thrown);
      // A load that failed is tried again by the next use, and a dead engine is replaced by it.
      if (!entry.loaded || error.reason === 'ENGINE_FAILED') this.#discard(model, entry, error);
      throw error;
    }
  }

  /** Waits for the running uses and closes every engine. */
  async close(): Promise<void> {
    this.#entries.clear();
    await Promise.all(this.#closing);
  }

  #discard(model: ModelWeights, entry: PoolEntry, error: PlumbError): void {
    if (this.#entries.peek(model.sha256) !== entry) return;
    this.#options.logger.warn({ model: model.version, error }, 'the model is unloaded');
    this.#entries.delete(model.sha256);
  }

  async #load(model: ModelWeights): Promise<Loaded> {
    const start = performance.now();
    const prepared = await this.#options.loadModel(model);
    const engine = await this.#options.openEngine();
    let sampler: ClipSampler;
    try {
      sampler = prepared(engine);
    } catch (error) {
      await engine.close();
      throw error;
    }
    const seconds = (performance.now() - start) / 1000;
    this.#options.logger.info({ model: model.version, seconds }, 'the model is loaded');
    return { engine, sampler };
  }
}

/** One model with the number of its running uses. */
class PoolEntry {
  readonly #loading: Promise<Loaded>;
  readonly #logger: Logger;
  readonly #idle = Promise.withResolvers<void>();
  #uses = 0;
  #retired = false;
  loaded = false;

  constructor(loading: Promise<Loaded>, logger: Logger) {
    this.#loading = loading;
    this.#logger = logger;
    // Every user gets the error from its own await; this one only keeps the rejection from being called unhandled.
    loading.catch(() => undefined);
  }

  async use<T>(body: (sampler: ClipSampler) => Promise<T>): Promise<T> {
    this.#uses++;
    try {
      const { sampler } = await this.#loading;
      this.loaded = true;
      return await body(sampler);
    } finally {
      this.#uses--;
      this.#settle();
    }
  }

  /** Closes the engine when the last use has ended. */
  async retire(): Promise<void> {
    this.#retired = true;
    this.#settle();
    await this.#idle.promise;
    try {
      const { engine } = await this.#loading;
      await engine.close();
    } catch (error) {
      // The load failed, so there is nothing to close, or the engine is dead already.
      this.#logger.debug({ error }, 'closing an engine that was not there');
    }
  }

  #settle(): void {
    if (this.#retired && this.#uses === 0) this.#idle.resolve();
  }
}
