/** An OpenAI-compatible endpoint behind the Endpoint port. */

import { SpanKind, SpanStatusCode, context } from '@opentelemetry/api';
import type { Attributes } from '@opentelemetry/api';
import OpenAI, { APIConnectionError, APIError } from 'openai';
import type {
  ChatCompletion,
  ChatCompletionContentPart,
  ChatCompletionCreateParamsNonStreaming,
} from 'openai/resources/chat/completions';
import { currentCarrier, meter, startSpan, tracer } from '@plumb/kit/telemetry';
import { z } from 'zod';
import { EndpointError } from '../domain/endpoint.ts';
import type { Completion, Endpoint } from '../domain/endpoint.ts';
import type { EndpointDefinition } from '../domain/judge-definition.ts';
import type { Question } from '../domain/question.ts';

const instrumentation = '@plumb/judge-service';
// What is read of an answer. Compatible endpoints leave out or null what they do not know, so only the first choice
// with its message is asked for; everything else has a value for "not said".
const tokenSchema = z.object({ token: z.string(), logprob: z.number() });
const completionSchema = z.object({
  id: z.string().nullish(),
  model: z.string().nullish(),
  choices: z
    .array(
      z.object({
        finish_reason: z.string().nullish(),
        message: z.object({ content: z.string().nullish(), refusal: z.string().nullish() }),
        logprobs: z
          .object({
            content: z.array(tokenSchema.extend({ top_logprobs: z.array(tokenSchema).nullish() })).nullish(),
          })
          .nullish(),
      }),
    )
    .min(1),
  usage: z.object({ prompt_tokens: z.int().min(0), completion_tokens: z.int().min(0) }).nullish(),
});

/**
 * Opens an endpoint. Nothing is sent until the first question.
 *
 * @param apiKey Key to send; undefined sends no Authorization header. It is held in memory only.
 */
export function openEndpoint(
  name: string,
  definition: EndpointDefinition,
  apiKey: string | undefined,
): Endpoint {
  const client = new OpenAI({
    baseURL: definition.baseUrl,
    // The client wants a key; without one the header is taken away.
    apiKey: apiKey ?? 'none',
    ...(apiKey === undefined ? { defaultHeaders: { authorization: null } } : {}),
    // Not taken from the environment: a judge is what its file says.
    organization: null,
    project: null,
    // Retries, time and logging are ours: its own log would hold the answers' texts.
    maxRetries: 0,
    timeout: definition.timeoutMs,
    logLevel: 'off',
  });
  // Names of the OpenTelemetry semantic conventions for generative AI clients. Made here and not at import: instruments
  // that are made before telemetry has started record nothing.
  const durations = meter(instrumentation).createHistogram('gen_ai.client.operation.duration', { unit: 's' });
  const tokenUsage = meter(instrumentation).createHistogram('gen_ai.client.token.usage', { unit: '{token}' });
  const url = new URL(definition.baseUrl);
  const server: Attributes = {
    'server.address': url.hostname,
    'server.port': Number(url.port) || (url.protocol === 'https:' ? 443 : 80),
  };

  return {
    name,
    complete(question, signal) {
      const request: Attributes = {
        'gen_ai.operation.name': 'chat',
        // The protocol that is spoken; which vendor stands behind a base URL cannot be told.
        'gen_ai.provider.name': 'openai',
        'gen_ai.request.model': question.model,
        'gen_ai.output.type': question.answer === undefined ? 'text' : 'json',
        ...server,
      };
      const start = performance.now();
      const { span, context: inside } = startSpan(tracer(instrumentation), `chat ${question.model}`, {
        kind: SpanKind.CLIENT,
        attributes: {
          ...request,
          'plumb.judge.endpoint': name,
          'gen_ai.request.max_tokens': question.maxOutputTokens,
          ...(question.temperature === undefined
            ? {}
            : { 'gen_ai.request.temperature': question.temperature }),
          ...(question.seed === undefined ? {} : { 'gen_ai.request.seed': question.seed }),
        },
      });
      return context.with(inside, async () => {
        const timeout = AbortSignal.timeout(definition.timeoutMs);
        try {
          const raw = await client.chat.completions.create(toRequest(question), {
            signal: AbortSignal.any([signal, timeout]),
            // An endpoint that writes traces of its own (vLLM does) goes on in this one.
            headers: currentCarrier(),
          });
          const { completion, id } = readCompletion(raw);
          span.setAttributes({
            'gen_ai.response.model': completion.model,
            'gen_ai.response.finish_reasons': [completion.finishReason],
            'gen_ai.usage.input_tokens': completion.inputTokens,
            'gen_ai.usage.output_tokens': completion.outputTokens,
            ...(id === undefined ? {} : { 'gen_ai.response.id': id }),
          });
          tokenUsage.record(completion.inputTokens, { ...request, 'gen_ai.token.type': 'input' });
          tokenUsage.record(completion.outputTokens, { ...request, 'gen_ai.token.type': 'output' });
          durations.record((performance.now() - start) / 1000, request);
          return completion;
        } catch (error) {
          if (signal.aborted) {
            span.setStatus({ code: SpanStatusCode.ERROR, message: 'the caller gave up' });
            throw signal.reason;
          }
          const mapped = toEndpointError(error, timeout.aborted, definition.timeoutMs);
          const kind = mapped.status === undefined ? mapped.fault : String(mapped.status);
          span.setAttribute('error.type', kind);
          span.setStatus({ code: SpanStatusCode.ERROR, message: mapped.message });
          durations.record((performance.now() - start) / 1000, { ...request, 'error.type': kind });
          throw mapped;
        } finally {
          span.end();
        }
      });
    },
  };
}

/** A question as the body of a chat completion request. */
export function toRequest(question: Question): ChatCompletionCreateParamsNonStreaming {
  const content = question.parts.map((part): ChatCompletionContentPart =>
    part.kind === 'text'
      ? { type: 'text', text: part.text }
      : {
          type: 'image_url',
          image_url: {
            url: `data:${part.image.mediaType};base64,${Buffer.from(part.image.bytes).toString('base64')}`,
          },
        },
  );
  return {
    model: question.model,
    messages: [
      { role: 'system', content: question.system },
      { role: 'user', content },
    ],
    [question.tokenLimitParameter]: question.maxOutputTokens,
    ...(question.temperature === undefined ? {} : { temperature: question.temperature }),
    ...(question.seed === undefined ? {} : { seed: question.seed }),
    // Five alternatives hold true and false with and without white space before them.
    ...(question.logProbabilities ? { logprobs: true, top_logprobs: 5 } : {}),
    ...responseFormat(question.answer),
  };
}

function responseFormat(
  answer: Question['answer'],
): Pick<ChatCompletionCreateParamsNonStreaming, 'response_format'> {
  if (answer === undefined) return {};
  if (answer.kind === 'json-object') return { response_format: { type: 'json_object' } };
  return {
    response_format: {
      type: 'json_schema',
      json_schema: { name: 'verdict', strict: true, schema: answer.schema },
    },
  };
}

function readCompletion(raw: ChatCompletion): { completion: Completion; id: string | undefined } {
  const result = completionSchema.safeParse(raw);
  const choice = result.data?.choices[0];
  if (result.data === undefined || choice === undefined) {
    throw new EndpointError('connection', 'the answer is not a chat completion', { cause: result.error });
  }
  const { id, model, usage } = result.data;
  const tokens = choice.logprobs?.content?.map((token) => ({
    token: token.token,
    logProbability: token.logprob,
    alternatives: (token.top_logprobs ?? []).map((other) => ({
      token: other.token,
      logProbability: other.logprob,
    })),
  }));
  return {
    id: id ?? undefined,
    completion: {
      model: model ?? '',
      content: choice.message.content ?? null,
      refusal: choice.message.refusal ?? null,
      finishReason: choice.finish_reason ?? 'unknown',
      inputTokens: usage?.prompt_tokens ?? 0,
      outputTokens: usage?.completion_tokens ?? 0,
      tokens,
    },
  };
}

/**
 * Everything that a call can throw as one EndpointError. What the endpoint wrote stays out of the message and out of the
 * cause: vendors quote parts of the key in a 401, and captions elsewhere.
 */
export function toEndpointError(error: unknown, timedOut: boolean, timeoutMs: number): EndpointError {
  if (error instanceof EndpointError) return error;
  if (timedOut) return new EndpointError('timeout', `no whole answer within ${timeoutMs} ms`);
  if (error instanceof APIConnectionError) {
    return new EndpointError('connection', `the connection failed${systemCode(error)}`);
  }
  if (error instanceof APIError && typeof error.status === 'number') {
    const { status } = error;
    const retryAfterMs = retryAfter(error.headers, Date.now());
    if (status === 429)
      return new EndpointError('rate-limited', 'HTTP 429, too many requests', { status, retryAfterMs });
    if (status === 408 || status === 409 || status >= 500) {
      return new EndpointError('server', `HTTP ${status}`, { status, retryAfterMs });
    }
    const kind = status === 401 || status === 403 || status === 404 ? 'misconfigured' : 'rejected';
    return new EndpointError(kind, `HTTP ${status}${vendorCode(error)}`, { status });
  }
  // A body that breaks off, or is no JSON: fetch and JSON.parse throw TypeError and SyntaxError.
  return new EndpointError('connection', `the answer broke off or could not be read${systemCode(error)}`);
}

// Vendors' codes are fixed words (model_not_found); anything that does not look like one is left out.
function vendorCode(error: APIError): string {
  return typeof error.code === 'string' && /^[a-z_]{1,40}$/.test(error.code) ? `, ${error.code}` : '';
}

function systemCode(error: unknown): string {
  for (
    let current = error, depth = 0;
    current instanceof Error && depth < 4;
    current = current.cause, depth += 1
  ) {
    const code = (current as NodeJS.ErrnoException).code;
    if (typeof code === 'string' && /^[A-Z_]{1,40}$/.test(code)) return ` (${code})`;
  }
  return '';
}

/**
 * How long an endpoint asks to wait, in milliseconds: retry-after-ms, or Retry-After in seconds or as a date (RFC 9110,
 * section 10.2.3). Undefined if it does not say, or says nonsense.
 *
 * @param now Milliseconds since the epoch.
 */
export function retryAfter(headers: Headers | undefined, now: number): number | undefined {
  const exact = Number(headers?.get('retry-after-ms') ?? Number.NaN);
  if (Number.isFinite(exact) && exact >= 0) return exact;
  const text = headers?.get('retry-after');
  if (text === null || text === undefined || text.trim() === '') return undefined;
  const seconds = Number(text);
  if (Number.isFinite(seconds)) return seconds >= 0 ? seconds * 1000 : undefined;
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
