import { invalidArguments } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { Implementation } from '@plumb/kit/rpc';
import { SpanKind } from '@opentelemetry/api';
import { tracer, withSpan } from '@plumb/kit/telemetry';
import type { GenerateRequest, GeneratorService } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import { asCompleted } from './domain/as-completed.ts';
import type { ClipRequest, Generation } from './domain/generation.ts';
import { resolveModel, samplerViolations, weightsOf } from './domain/models.ts';
import type { ModelCatalogue } from './domain/models.ts';
import type { StoredClip } from './adapters/clip-artifacts.ts';

/** Most items of one Generate call. */
const maxItems = 64;
/** Longest prompt, in characters. */
const maxPromptLength = 2000;

/** GeneratorService over the domain. */
export function generatorService(options: {
  readonly generation: Generation<StoredClip>;
  readonly catalogue: ModelCatalogue;
}): Implementation<typeof GeneratorService> {
  const { generation, catalogue } = options;
  const spans = tracer('plumb-generator');
  return {
    async *generate(request, { signal }) {
      const violations = generateViolations(request);
      if (violations.length > 0) throw invalidArguments(violations);
      const { sampler } = request;
      const model = weightsOf(resolveModel(catalogue, request.modelVersion), 'model_version');
      // One failure ends the call: the other items are given up with it.
      const abandoned = new AbortController();
      const either = AbortSignal.any([signal, abandoned.signal]);
      try {
        const running = request.items.map((item) => async () => {
          const clip: ClipRequest = {
            model,
            sampler: {
              steps: sampler?.steps ?? 0,
              guidance: sampler?.guidance ?? 0,
              shift: sampler?.shift ?? 0,
            },
            caption: item.prompt?.text ?? '',
            seed: item.seed,
            account: '',
            storeLatents: request.storeLatents,
          };
          const attributes = {
            'plumb.model.version': model.version,
            'plumb.prompt.id': item.prompt?.id ?? '',
          };
          const stored = await withSpan(spans, 'generate clip', { kind: SpanKind.INTERNAL, attributes }, () =>
            generation.generate(clip, { priority: 'interactive', signal: either }),
          );
          return { id: item.id, ...stored, modelVersion: model.version };
        });
        yield* asCompleted(running.map((run) => run()));
      } finally {
        abandoned.abort();
      }
    },

    // eslint-disable-next-line typescript/require-await -- the handler's type is asynchronous
    async listModels({ pageSize, pageToken }) {
      const size = pageSize === 0 ? 50 : pageSize;
      if (size < 1 || size > 1000) {
        throw invalidArguments([
          { field: 'page_size', description: `is ${pageSize}; use 1 to 1000, or 0 for 50` },
        ]);
      }
      const after = [...catalogue.versions.values()]
        .toSorted((a, b) => (a.version < b.version ? -1 : 1))
        .filter(({ version }) => version > pageToken);
      const models = after.slice(0, size);
      return { models, nextPageToken: after.length > size ? (models.at(-1)?.version ?? '') : '' };
    },

    // eslint-disable-next-line typescript/require-await -- the handler's type is asynchronous
    async getModel({ version }) {
      if (version === '') {
        throw invalidArguments([
          { field: 'version', description: 'is empty; name a version or <name>@promoted' },
        ]);
      }
      return { model: resolveModel(catalogue, version) };
    },
  };
}

function generateViolations(request: GenerateRequest): FieldViolation[] {
  const violations = samplerViolations(request.sampler, 'sampler');
  const count = request.items.length;
  if (count < 1 || count > maxItems) {
    violations.push({ field: 'items', description: `has ${count} items; give 1 to ${maxItems} a call` });
    return violations;
  }
  const seen = new Map<string, number>();
  for (const [index, { id, prompt }] of request.items.entries()) {
    const twin = seen.get(id);
    if (id === '' || id.length > 200) {
      violations.push({ field: `items[${index}].id`, description: 'give an id of 1 to 200 characters' });
    } else if (twin !== undefined) {
      violations.push({
        field: `items[${index}].id`,
        description: `'${id}' is also the id of items[${twin}]`,
      });
    }
    seen.set(id, index);
    const text = prompt?.text ?? '';
    if (text.trim() === '') {
      violations.push({
        field: `items[${index}].prompt.text`,
        description: 'is empty; say what the clip shall show',
      });
    } else if (text.length > maxPromptLength) {
      violations.push({
        field: `items[${index}].prompt.text`,
        description: `has ${text.length} characters; use at most ${maxPromptLength}`,
      });
    }
  }
  return violations;
}
