import { context } from '@opentelemetry/api';
import type { Link, Span } from '@opentelemetry/api';
import { PlumbError } from '@plumb/kit/errors';
import type { ClipSampler, SampledClip, SamplerSettings } from '@plumb/diffusion';
import { currentCarrier, linkTo, recordError, startSpan, tracer, withSpan } from '@plumb/kit/telemetry';
import { Batcher } from './batcher.ts';
import type { Priority } from './batcher.ts';

/** Where a model's weights lie. Equal hashes are the same model. */
export interface ModelWeights {
  /** `<name>@<first 12 digits of the hash>`. */
  readonly version: string;
  readonly uri: string;
  /** Lower-case hexadecimal SHA-256. */
  readonly sha256: string;
  /** What kind of model it is. */
  readonly mediaType: string;
}

/** One clip that somebody wants. */
export interface ClipRequest {
  readonly model: ModelWeights;
  readonly sampler: SamplerSettings;
  readonly caption: string;
  /** uint64. */
  readonly seed: bigint;
  /** Run whose budget pays, where the model costs money; empty for nobody's. */
  readonly account: string;
  /** Also stores the latents. */
  readonly storeLatents: boolean;
}

/** Models that are loaded and ready. */
export interface Samplers {
  /**
   * Runs `body` with a model's sampler, loading it first where needed.
   * @throws PlumbError NOT_FOUND or DATA_LOSS for weights that are missing or damaged; UNAVAILABLE (ENGINE_FAILED) when
   * the engine died, after which the next call opens a new one
   */
  use<T>(model: ModelWeights, body: (sampler: ClipSampler) => Promise<T>): Promise<T>;
}

/** What happens to a clip once it is sampled; `Stored` says where it lies. */
export interface ClipStore<Stored> {
  put(clip: SampledClip, options: { readonly storeLatents: boolean }): Promise<Stored>;
}

/** What the generation counts. */
export interface GenerationMetrics {
  /** A batch was sampled: clips in it, places it had, seconds it took. */
  sampled(model: ModelWeights, clips: number, places: number, seconds: number): void;
}

export interface GenerationOptions<Stored> {
  readonly samplers: Samplers;
  readonly clips: ClipStore<Stored>;
  readonly metrics: GenerationMetrics;
  /** Clips that share a call of the denoiser. */
  readonly batchSize: number;
  readonly batchesUnderWay: number;
  readonly batchWaitMs: number;
  /** Most clips that may wait for a batch. */
  readonly maxWaiting: number;
}

/** Makes clips out of requests, from whichever side they come. */
export interface Generation<Stored> {
  /**
   * Samples one clip and stores it. The same request gives the same clip bit for bit on one machine, whichever batch it
   * lands in.
   * @throws PlumbError INVALID_ARGUMENT for an unknown word or bad settings, INTERNAL (NUMERICS_NOT_FINITE) for a model
   * that gives values which are not finite, and whatever `samplers`, `clips` and the batcher throw
   */
  generate(request: ClipRequest, options: { priority: Priority; signal?: AbortSignal }): Promise<Stored>;
  close(): Promise<void>;
}

/** A crash of the engine that repeats is the model's or the machine's fault and not the moment's. */
const engineAttempts = 3;

const spans = tracer('plumb-generator');

/** A request with the span of its wait, which ends when its batch begins. */
interface Queued {
  readonly request: ClipRequest;
  /** The span that wants the clip. */
  readonly origin: Link | undefined;
  readonly begin: (batch: Link | undefined) => void;
}

interface Group {
  readonly model: ModelWeights;
  readonly sampler: SamplerSettings;
}

/** Wires the batcher between those who ask, the samplers and the store. Storing overlaps with the next batch. */
export function createGeneration<Stored>(options: GenerationOptions<Stored>): Generation<Stored> {
  const { samplers, clips, metrics } = options;

  const sampleOnce = (
    group: Group,
    requests: readonly ClipRequest[],
    signal: AbortSignal,
  ): Promise<(SampledClip | PlumbError)[]> =>
    samplers.use(group.model, async (sampler) => {
      const start = performance.now();
      const sampled = await sampler.sampleEach(requests, group.sampler, { signal });
      metrics.sampled(group.model, requests.length, sampler.batch, (performance.now() - start) / 1000);
      return sampled;
    });

  const sample = async (
    group: Group,
    requests: readonly ClipRequest[],
    signal: AbortSignal,
  ): Promise<(SampledClip | PlumbError)[]> => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await sampleOnce(group, requests, signal);
      } catch (thrown) {
        const error = PlumbError.from(thrown);
        const again = error.reason === 'ENGINE_FAILED' && error.retryable && attempt < engineAttempts;
        if (!again || signal.aborted) throw error;
      }
    }
  };

  /** A batch belongs to no sample, so it is a trace of its own, with links to its clips and theirs to it. */
  const sampleBatch = (
    group: Group,
    queued: readonly Queued[],
    signal: AbortSignal,
  ): Promise<(SampledClip | PlumbError)[]> =>
    withSpan(
      spans,
      'sample batch',
      {
        root: true,
        attributes: { 'plumb.model.version': group.model.version, 'plumb.batch.size': queued.length },
      },
      async (span) => {
        const link = linkTo(currentCarrier());
        for (const { begin, origin } of queued) {
          begin(link);
          if (origin !== undefined) span.addLink(origin);
        }
        return await sample(
          group,
          queued.map(({ request }) => request),
          signal,
        );
      },
    );

  const batcher = new Batcher<Group, Queued, SampledClip | PlumbError>({
    batchSize: options.batchSize,
    lingerMs: options.batchWaitMs,
    concurrency: options.batchesUnderWay,
    maxWaiting: options.maxWaiting,
    keyOf: ({ model, sampler }) => [model.sha256, sampler.steps, sampler.guidance, sampler.shift].join(),
    run: sampleBatch,
  });

  return {
    async generate(request, { priority, signal }) {
      // Before it joins a batch, so that an unknown word is its own request's error alone.
      await samplers.use(request.model, async (sampler) => {
        sampler.check(request.caption);
        await Promise.resolve();
      });
      const group = { model: request.model, sampler: request.sampler };
      const wait = startSpan(spans, 'wait for batch');
      let sampling: Span | undefined;
      const queued: Queued = {
        request,
        origin: linkTo(currentCarrier()),
        begin: (batch) => {
          wait.span.end();
          sampling = startSpan(spans, 'sample clip', { links: [batch] }).span;
        },
      };
      // The batch begins in the context of whoever filled it.
      const bound = { ...queued, begin: context.bind(context.active(), queued.begin) };
      let sampled: SampledClip | PlumbError;
      try {
        sampled = await batcher.submit(group, bound, {
          priority,
          ...(signal === undefined ? {} : { signal }),
        });
        if (sampled instanceof PlumbError) throw sampled;
      } catch (error) {
        if (sampling !== undefined) recordError(sampling, error);
        throw error;
      } finally {
        // An item that was given up while it waited has not begun.
        if (sampling === undefined) wait.span.end();
        sampling?.end();
      }
      const clip = sampled;
      return await withSpan(spans, 'store', {}, () =>
        clips.put(clip, { storeLatents: request.storeLatents }),
      );
    },
    close: () => batcher.close(),
  };
}
