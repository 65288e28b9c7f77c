/** An OpenAI-compatible endpoint behind the Endpoint port. */

import { SpanKind, SpanStatusCode, context } from '@opentelemetry/api';
import type { Attributes } from '@opentelemetry/api';
import type {
  ChatCompletion,
  ChatCompletionContentPart,
  ChatCompletionCreateParamsNonStreaming,
} from 'openai/resources/chat/completions';
import { currentCarrier, meter, recordRetry, startSpan, tracer } from '@plumb/kit/telemetry';
import { z } from 'zod';
import { EndpointError, openAiClient, toEndpointError } from '@plumb/endpoint';
import type { Completion, Endpoint } from '../domain/endpoint.ts';
import type { EndpointDefinition } from '../domain/judge-definition.ts';
import type { Question } from '../domain/question.ts';

const instrumentation = '@plumb/judge-service';

/** What of a call is shown in its span. */
export type TracedContent = 'off' | 'prompt' | 'all';

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
 * @param content What of a call its span shows: nothing, the text of the question, or that and the answer. Never pictures.
 */
export function openEndpoint(
  name: string,
  definition: EndpointDefinition,
  apiKey: string | undefined,
  content: TracedContent = 'off',
): Endpoint {
  const client = openAiClient(definition, apiKey);
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
      if (content !== 'off') {
        span.setAttributes({
          'gen_ai.system_instructions': JSON.stringify([{ type: 'text', content: question.system }]),
          'gen_ai.input.messages': JSON.stringify([{ role: 'user', parts: shownParts(question) }]),
        });
      }
      return context.with(inside, async () => {
        recordRetry(span);
        // Taken back when the call is over, as AbortSignal.timeout cannot be.
        const timeout = new AbortController();
        const timer = setTimeout(() => {
          timeout.abort();
        }, definition.timeoutMs);
        try {
          const raw = await client.chat.completions.create(toRequest(question), {
            signal: AbortSignal.any([signal, timeout.signal]),
            // An endpoint that writes traces of its own (vLLM does) goes on in this one.
            headers: currentCarrier(),
          });
          const { completion, id } = readCompletion(raw);
          span.setAttributes({
            'gen_ai.response.model': completion.model,
            'gen_ai.response.finish_reasons': [completion.finishReason],
            ...(id === undefined ? {} : { 'gen_ai.response.id': id }),
          });
          if (content === 'all') {
            const parts = [{ type: 'text', content: completion.content }];
            span.setAttribute(
              'gen_ai.output.messages',
              JSON.stringify([{ role: 'assistant', parts, finish_reason: completion.finishReason }]),
            );
          }
          const { usage } = completion;
          if (usage !== undefined) {
            span.setAttributes({
              'gen_ai.usage.input_tokens': usage.inputTokens,
              'gen_ai.usage.output_tokens': usage.outputTokens,
            });
            tokenUsage.record(usage.inputTokens, { ...request, 'gen_ai.token.type': 'input' });
            tokenUsage.record(usage.outputTokens, { ...request, 'gen_ai.token.type': 'output' });
          }
          durations.record((performance.now() - start) / 1000, request);
          return completion;
        } catch (error) {
          if (signal.aborted) {
            span.setStatus({ code: SpanStatusCode.ERROR, message: 'the caller gave up' });
            throw signal.reason;
          }
          const mapped = toEndpointError(error, timeout.signal.aborted, definition.timeoutMs);
          const kind = mapped.status === undefined ? mapped.fault : String(mapped.status);
          span.setAttributes({ 'error.type': kind, 'plumb.error.reason': mapped.fault });
          recordRetry(span, mapped);
          span.setStatus({ code: SpanStatusCode.ERROR, message: mapped.message });
          durations.record((performance.now() - start) / 1000, { ...request, 'error.type': kind });
          throw mapped;
        } finally {
          clearTimeout(timer);
          span.end();
        }
      });
    },
  };
}

/** A question as its span shows it, by the generative-AI conventions; pictures by their kind and size alone. */
function shownParts({ parts }: Question): unknown[] {
  return parts.map((part) =>
    part.kind === 'text'
      ? { type: 'text', content: part.text }
      : { type: 'image', mime_type: part.image.mediaType, bytes: part.image.bytes.length },
  );
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
      usage: usage ? { inputTokens: usage.prompt_tokens, outputTokens: usage.completion_tokens } : undefined,
      tokens,
    },
  };
}
