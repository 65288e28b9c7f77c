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
import { recordRetry, SpanKind, tracer, withSpan } from '@plumb/kit/telemetry';
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
  readonly events?: RemoteEvents;
}

/** What the outside is told of calls. */
export interface RemoteEvents {
  /** A call failed; another may follow. */
  fault?(endpoint: string, error: EndpointError): void;
  /** A clip was ordered and is paid for, in the currency of the endpoints. */
  spent?(endpoint: string, model: string, cost: number): void;
}

const spans = tracer('plumb.endpoint');

/** Method and path of a call, as its span says them. */
type Route = 'POST /videos' | 'GET /videos/{id}' | 'GET /videos/{id}/content';

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

  const url = new URL(settings.baseUrl);
  const server = {
    'server.address': url.hostname,
    'server.port': Number(url.port) || (url.protocol === 'https:' ? 443 : 80),
    'plumb.endpoint': endpoint.name,
    'plumb.model': model.model,
  };

  /** One try of a call, in a span of its own, by the HTTP conventions. Nothing of prompts or answers is in it. */
  const traced = async <T>(route: Route, work: () => Promise<T>): Promise<T> => {
    const [method = ''] = route.split(' ');
    const attributes = {
      ...server,
      'http.request.method': method,
      'url.template': route.slice(method.length + 1),
    };
    return await withSpan(spans, route, { kind: SpanKind.CLIENT, attributes }, async (span) => {
      recordRetry(span);
      try {
        return await work();
      } catch (error) {
        if (error instanceof EndpointError) {
          recordRetry(span, error);
          span.setAttribute('plumb.error.reason', error.fault);
          if (error.status !== undefined) span.setAttribute('http.response.status_code', error.status);
          endpoint.events?.fault?.(endpoint.name, error);
        }
        throw error;
      }
    });
  };

  /** One HTTP call, tried again as the endpoint's settings say. */
  const call = async <T>(
    route: Route,
    work: (signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> => {
    let calls = 0;
    try {
      return await retrying(
        () =>
          admission.call(
            async () => {
              calls += 1;
              const timeout = AbortSignal.timeout(settings.timeoutMs);
              return await traced(route, async () => {
                try {
                  return await work(AbortSignal.any([signal, timeout]));
                } catch (error) {
                  if (signal.aborted) throw signal.reason;
                  throw toEndpointError(error, timeout.aborted, settings.timeoutMs);
                }
              });
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
        'POST /videos',
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
          'GET /videos/{id}',
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
      const { bytes, mediaType } = await call(
        'GET /videos/{id}/content',
        async (within) => {
          const response = await client.videos.downloadContent(id, {}, { signal: within });
          return { bytes: await readBody(response), mediaType: response.headers.get('content-type') ?? '' };
        },
        signal,
      );
      const clip = await decodeFile(bytes, mediaType);
      return clip;
    } finally {
      reserved.settle({ inputTokens: 0, outputTokens: 0, cost });
      if (cost > 0) endpoint.events?.spent?.(endpoint.name, model.name, cost);
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
