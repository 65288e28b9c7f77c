import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { ClipSampler, SampledClip, SampleRequest } from '@plumb/diffusion';
import { EndpointError, openAiClient, retrying, toEndpointError } from '@plumb/endpoint';
import type { Admission, EndpointSettings, Spending } from '@plumb/endpoint';
import {
  deadlineExceeded,
  failedPrecondition,
  invalidArgument,
  PlumbError,
  unavailable,
} from '@plumb/kit/errors';
import { decodeFile } from '@plumb/media';
import PQueue from 'p-queue';
import { z } from 'zod';
import type { RemoteModel } from './remote-model.ts';

/** An endpoint with its limits and its accounts. */
export interface RemoteEndpoint {
  readonly name: string;
  readonly settings: EndpointSettings;
  /** Held in memory only. */
  readonly apiKey: string | undefined;
  /** Shared by all models of the endpoint. */
  readonly admission: Admission;
  readonly spending: Spending;
}

/** Longest prompt that is sent, in characters. */
const longestPrompt = 2000;
/** Largest file that is downloaded, in bytes. */
const largestFile = 512 * 2 ** 20;

// What is read of an answer; compatible endpoints leave out what they do not know.
const jobSchema = z.object({
  // It goes into the path of the next request.
  id: z.string().regex(/^[A-Za-z0-9_.:-]{1,200}$/),
  status: z.enum(['queued', 'in_progress', 'completed', 'failed']),
  error: z.object({ code: z.string().nullish() }).nullish(),
});

/**
 * A model behind OpenAI's video API: create, poll, download. It has no seed and no sampler settings, so what a request
 * says of them only makes the idempotency key: asking for the same clip again is the same job where the endpoint heeds
 * the key. Every call goes through the endpoint's limits, and every clip is paid from its run's account.
 */
export function openRemotePipeline(model: RemoteModel, endpoint: RemoteEndpoint): ClipSampler {
  const { settings, admission, spending } = endpoint;
  const client = openAiClient(settings, endpoint.apiKey);
  const jobs = new PQueue({ concurrency: model.clipsAtATime });

  /** One HTTP call, tried again as the endpoint's settings say. */
  const call = async <T>(work: (signal: AbortSignal) => Promise<T>, signal: AbortSignal): Promise<T> => {
    let calls = 0;
    try {
      return await retrying(
        () =>
          admission.call(
            async () => {
              calls += 1;
              const timeout = AbortSignal.timeout(settings.timeoutMs);
              try {
                return await work(AbortSignal.any([signal, timeout]));
              } catch (error) {
                if (signal.aborted) throw signal.reason;
                throw toEndpointError(error, timeout.aborted, settings.timeoutMs);
              }
            },
            0,
            signal,
          ),
        { retries: settings.retries, signal },
      );
    } catch (error) {
      throw toPlumbError(error, endpoint.name, calls);
    }
  };
  const readJob = (raw: unknown): z.output<typeof jobSchema> => {
    const parsed = jobSchema.safeParse(raw);
    if (parsed.success) return parsed.data;
    throw new EndpointError('connection', 'the answer is no video job', { cause: parsed.error });
  };

  const make = async (
    request: SampleRequest,
    idempotencyKey: string,
    signal: AbortSignal,
  ): Promise<SampledClip> => {
    const account = await spending.account(request.account ?? '');
    const reserved = account.reserve(
      { inputTokens: 0, outputTokens: 0, cost: model.costPerClip },
      model.name,
    );
    let cost = 0;
    try {
      let job = await call(
        async (within) =>
          readJob(
            await client.videos.create(
              {
                model: model.model,
                prompt: request.caption,
                // The types name the sizes and durations of one vendor.
                size: `${model.width}x${model.height}` as '1280x720',
                seconds: model.seconds as '4',
              },
              { headers: { 'idempotency-key': idempotencyKey }, signal: within },
            ),
          ),
        signal,
      );
      // What was ordered is paid, whatever becomes of it here.
      cost = model.costPerClip;
      while (job.status === 'queued' || job.status === 'in_progress') {
        await delay(model.pollMs, undefined, { signal });
        const { id } = job;
        job = await call(
          async (within) => readJob(await client.videos.retrieve(id, { signal: within })),
          signal,
        );
      }
      if (job.status === 'failed') {
        cost = 0;
        throw failedPrecondition(
          `endpoint '${endpoint.name}' could not make the clip (${word(job.error?.code)}); change the prompt or ask another model`,
          { reason: 'REMOTE_ERROR', metadata: { endpoint: endpoint.name } },
        );
      }
      const { id } = job;
      const { bytes, mediaType } = await call(async (within) => {
        const response = await client.videos.downloadContent(id, {}, { signal: within });
        return { bytes: await readBody(response), mediaType: response.headers.get('content-type') ?? '' };
      }, signal);
      const clip = await decodeFile(bytes, mediaType);
      return clip;
    } finally {
      reserved.settle({ inputTokens: 0, outputTokens: 0, cost });
    }
  };

  const check = (caption: string): void => {
    if (caption.length <= longestPrompt) return;
    throw invalidArgument(
      'prompt.text',
      `has ${caption.length} characters; endpoints take at most ${longestPrompt}`,
    );
  };

  return {
    format: model,
    batch: model.clipsAtATime,
    check,
    async sampleEach(requests, sampler, { signal = new AbortController().signal } = {}) {
      for (const { caption } of requests) check(caption);
      return await Promise.all(
        requests.map((request) =>
          jobs.add(async (): Promise<SampledClip | PlumbError> => {
            const late = AbortSignal.timeout(model.longestMs);
            try {
              const either = AbortSignal.any([signal, late]);
              const key = keyOf(model, request, sampler);
              return await admission.admit(() => make(request, key, either));
            } catch (error) {
              // Nobody wants any of them any more.
              if (signal.aborted) throw signal.reason;
              if (late.aborted) {
                return deadlineExceeded(
                  `endpoint '${endpoint.name}' did not make the clip within ${model.longestMs} ms; raise longestMs of model ${model.name}`,
                );
              }
              return PlumbError.from(error);
            }
          }),
        ),
      );
    },
    async close() {
      await jobs.onIdle();
    },
  };
}

function keyOf(model: RemoteModel, { caption, seed }: SampleRequest, sampler: unknown): string {
  const text = JSON.stringify([model, caption, String(seed), sampler]);
  return createHash('sha256').update(text).digest('hex');
}

async function readBody(response: Response): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of response.body ?? []) {
    size += part.length;
    if (size > largestFile) {
      throw new EndpointError('rejected', `the clip has more than ${largestFile} bytes`);
    }
    parts.push(part);
  }
  return new Uint8Array(Buffer.concat(parts));
}

/** Vendors' codes are fixed words; anything that does not look like one is left out. */
function word(code: string | null | undefined): string {
  return typeof code === 'string' && /^[a-z0-9_]{1,40}$/.test(code) ? code : 'no reason was given';
}

function toPlumbError(error: unknown, name: string, calls: number): unknown {
  if (!(error instanceof EndpointError)) return error;
  const options = {
    reason: 'REMOTE_ERROR' as const,
    metadata: { endpoint: name, fault: error.fault },
    cause: error,
  };
  if (error.fault === 'misconfigured') {
    return failedPrecondition(
      `endpoint '${name}' lets nobody in (${error.message}); check the key's variable, the model and the base URL in the generator's endpoints file`,
      options,
    );
  }
  if (error.fault === 'rejected') {
    return failedPrecondition(`endpoint '${name}' does not make this clip (${error.message})`, options);
  }
  return unavailable(`endpoint '${name}' gave no answer in ${calls} calls; the last one: ${error.message}`, {
    ...options,
    ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
  });
}
