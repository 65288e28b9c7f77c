import { createHash, timingSafeEqual } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { SpanKind } from '@opentelemetry/api';
import { PlumbError, describeError } from '@plumb/kit/errors';
import { contextFromCarrier, logger, tracer, withSpan } from '@plumb/kit/telemetry';
import Fastify from 'fastify';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { answer, promptTokens } from './answer.ts';
import type { Arrival } from './arrivals.ts';
import { chatRequestSchema, understand } from './chat.ts';
import { faultOf, misbehaviourOf } from './misbehaviour.ts';
import type { FaultKind, Misbehaviour } from './misbehaviour.ts';
import { refereeDescription, refereeModel } from './model.ts';

/** Largest request body, in bytes: 64 frames of about 256 KiB. */
const maxBodyBytes = 16 * 2 ** 20;
/** Contents whose number of calls is remembered, and calls whose arrival is. */
const maxRemembered = 100_000;

/** What has happened since the start. */
export type Statistics = {
  requests: number;
  answered: number;
  /** Calls whose caller hung up before the answer. */
  abandoned: number;
  inFlight: number;
  mostInFlight: number;
  faults: Record<FaultKind, number>;
};

export type RefereeEndpointOptions = {
  readonly misbehaviour: Misbehaviour;
  /** A key that callers must send as a bearer token; undefined lets everybody in. */
  readonly apiKey?: string | undefined;
};

/**
 * The referee behind an OpenAI-compatible interface: POST /v1/chat/completions, GET /v1/models, and GET /statistics and
 * GET /arrivals for tests. The caller listens on it.
 */
export function refereeEndpoint({ misbehaviour, apiKey }: RefereeEndpointOptions): FastifyInstance {
  const log = logger('referee-endpoint');
  const app = Fastify({ bodyLimit: maxBodyBytes, logger: false, forceCloseConnections: true });
  const statistics: Statistics = {
    requests: 0,
    answered: 0,
    abandoned: 0,
    inFlight: 0,
    mostInFlight: 0,
    faults: {
      'server-error': 0,
      'rate-limit': 0,
      reset: 0,
      truncated: 0,
      empty: 0,
      refusal: 0,
      'wrong-json': 0,
      'wrong-language': 0,
      stall: 0,
    },
  };
  const calls = new Map<string, number>();
  const arrivals: Arrival[] = [];

  app.setErrorHandler(async (thrown, _request, reply) => {
    const status =
      typeof thrown === 'object' && thrown !== null && 'statusCode' in thrown ? Number(thrown.statusCode) : 0;
    const error = PlumbError.from(thrown);
    const bad = error.code === 'INVALID_ARGUMENT';
    if (!bad && status < 400) log.error({ error: describeError(thrown) }, 'request failed');
    await reply.code(bad ? 400 : status >= 400 ? status : 500).send({
      error: {
        message: bad ? error.message : describeError(thrown),
        type: 'invalid_request_error',
        code: bad ? error.reason.toLowerCase() : null,
      },
    });
  });

  app.addHook('onRequest', async (request, reply) => {
    if (apiKey === undefined || !request.url.startsWith('/v1/')) return;
    const given = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1] ?? '';
    if (sameText(given, apiKey)) return;
    // Hosted endpoints quote the key that was refused; so does this one, so that clients can be tested for not passing it on.
    await reply.code(401).send({
      error: {
        message: `Incorrect API key provided: ${given}`,
        type: 'invalid_request_error',
        code: 'invalid_api_key',
      },
    });
  });

  app.get('/v1/models', () => ({
    object: 'list',
    data: [{ id: refereeModel, object: 'model', created: 0, owned_by: refereeDescription }],
  }));

  app.get('/statistics', () => statistics);

  app.get('/arrivals', () => arrivals);

  app.post('/v1/chat/completions', async (request, reply) => {
    statistics.requests += 1;
    statistics.inFlight += 1;
    statistics.mostInFlight = Math.max(statistics.mostInFlight, statistics.inFlight);
    const gone = new AbortController();
    reply.raw.once('close', () => {
      statistics.inFlight -= 1;
      if (!reply.raw.writableFinished) {
        gone.abort();
        if (!reply.raw.writableEnded) statistics.abandoned += 1;
      }
    });
    const chat = chatRequestSchema.parse(request.body);
    const behaviour = misbehaviourOf(chat.model, misbehaviour);
    const question = understand(chat);
    const attempt = calls.get(question.hash) ?? 0;
    if (calls.size >= maxRemembered) calls.clear();
    calls.set(question.hash, attempt + 1);
    const arrival = {
      at: Date.now() - reply.elapsedTime,
      picture: createHash('sha256')
        .update(question.clips[0]?.pictures[0] ?? '')
        .digest('hex'),
      tokens: promptTokens(question, chat),
    };
    if (arrivals.length >= maxRemembered) arrivals.shift();
    arrivals.push(arrival);

    if (behaviour.latencyMs > 0) await delay(behaviour.latencyMs, undefined, { signal: gone.signal });
    const fault = faultOf(behaviour, question.hash, attempt);
    if (fault !== undefined) statistics.faults[fault] += 1;
    if (fault === 'server-error' || fault === 'rate-limit' || fault === 'stall') {
      return refuse(fault, reply, behaviour);
    }
    const traceparent = request.headers['traceparent'];
    const completion = await withSpan(
      tracer('plumb.referee'),
      'POST /v1/chat/completions',
      {
        kind: SpanKind.SERVER,
        parent: contextFromCarrier(typeof traceparent === 'string' ? { traceparent } : {}),
        attributes: {
          'http.request.method': 'POST',
          'http.route': '/v1/chat/completions',
          'gen_ai.request.model': chat.model,
        },
      },
      () => answer(question, chat, behaviour),
    );
    arrival.tokens = completion.usage.total_tokens;
    const [choice] = completion.choices;
    switch (fault) {
      case 'reset': {
        reply.hijack();
        const body = Buffer.from(JSON.stringify(completion));
        reply.raw.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
        reply.raw.write(body.subarray(0, body.length / 2), () => reply.raw.destroy());
        return reply;
      }
      case 'truncated':
        choice.message.content = choice.message.content?.slice(0, -12) ?? null;
        choice.finish_reason = 'length';
        break;
      case 'empty':
        choice.message.content = '';
        break;
      case 'refusal':
        choice.message = { role: 'assistant', content: null, refusal: "I'm sorry, I can't help with that." };
        break;
      case 'wrong-json':
        choice.message.content = '{"verdict": "accepted"}';
        break;
      case 'wrong-language':
        choice.message.content = 'Das Video zeigt einen roten Ball, der auf den Boden fällt. Akzeptiert.';
        break;
      case undefined:
        statistics.answered += 1;
        break;
    }
    if (fault !== undefined) choice.logprobs = null;
    return completion;
  });

  return app;
}

function refuse(
  fault: 'server-error' | 'rate-limit' | 'stall',
  reply: FastifyReply,
  settings: Misbehaviour,
): FastifyReply {
  // Nothing is sent; the connection stays open until the caller closes it.
  if (fault === 'stall') return reply.hijack();
  if (fault === 'server-error') {
    return reply
      .code(500)
      .send({ error: { message: 'the server had an error', type: 'server_error', code: null } });
  }
  return reply
    .code(429)
    .header('retry-after', String(settings.retryAfterSeconds))
    .send({ error: { message: 'rate limit reached', type: 'requests', code: 'rate_limit_exceeded' } });
}

function sameText(one: string, other: string): boolean {
  const [a, b] = [Buffer.from(one), Buffer.from(other)];
  return a.length === b.length && timingSafeEqual(a, b);
}
