import { failedPrecondition, invalidArgument, notFound } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { ModelVersion, SamplerSettings } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelWeights } from './generation.ts';

const sha256Pattern = /^[0-9a-f]{64}$/;
const versionPattern = /^[a-z0-9][a-z0-9._-]{0,62}@[0-9a-f]{12}$/;

/** What the registry knows: every version, and the promoted one of each line of models. */
export interface ModelCatalogue {
  readonly versions: ReadonlyMap<string, ModelVersion>;
  /** By name of the line. */
  readonly promoted: ReadonlyMap<string, ModelVersion>;
}

/**
 * The version that a request names: a version, `<name>@promoted`, or nothing, which is the promoted version when one
 * line of models has one.
 * @throws PlumbError NOT_FOUND (MODEL_NOT_FOUND), INVALID_ARGUMENT for a malformed name, FAILED_PRECONDITION when
 * nothing says which model is meant
 */
export function resolveModel(catalogue: ModelCatalogue, version: string): ModelVersion {
  if (version === '') {
    const [only, ...others] = catalogue.promoted.values();
    if (only !== undefined && others.length === 0) return only;
    throw failedPrecondition(
      only === undefined
        ? 'model_version is empty and no model is promoted; name a version or promote one'
        : `model_version is empty and several models are promoted; name one of ${[only, ...others].map((model) => model.version).join(', ')}`,
      { reason: 'MODEL_NOT_FOUND' },
    );
  }
  if (version.endsWith('@promoted')) {
    const name = version.slice(0, -'@promoted'.length);
    const promoted = catalogue.promoted.get(name);
    if (promoted === undefined) {
      throw notFound('promoted version of model', name, {
        reason: 'MODEL_NOT_FOUND',
        fix: 'plumb models list shows what there is',
      });
    }
    return promoted;
  }
  if (!versionPattern.test(version)) {
    throw invalidArgument(
      'model_version',
      `'${version}' is no version; versions look like toybox@0123456789ab`,
    );
  }
  const found = catalogue.versions.get(version);
  if (found === undefined) {
    throw notFound('model version', version, {
      reason: 'MODEL_NOT_FOUND',
      fix: 'plumb models list shows what there is',
    });
  }
  return found;
}

/**
 * Where the weights of a version lie.
 * @param field path of the message, for errors
 * @throws PlumbError INVALID_ARGUMENT when something is missing, or the version is not that of its weights
 */
export function weightsOf(model: ModelVersion | undefined, field: string): ModelWeights {
  if (model === undefined)
    throw invalidArgument(field, 'is missing; name the model version', { reason: 'MISSING_FIELD' });
  const { version, weights } = model;
  if (!versionPattern.test(version)) {
    throw invalidArgument(
      `${field}.version`,
      `'${version}' is no version; versions look like toybox@0123456789ab`,
    );
  }
  if (weights === undefined || weights.uri === '') {
    throw invalidArgument(`${field}.weights`, 'is missing; give the artifact of the weights', {
      reason: 'MISSING_FIELD',
    });
  }
  if (!sha256Pattern.test(weights.sha256)) {
    throw invalidArgument(`${field}.weights.sha256`, 'must be 64 lower-case hexadecimal digits');
  }
  if (!version.endsWith(`@${weights.sha256.slice(0, 12)}`)) {
    throw invalidArgument(
      `${field}.version`,
      `'${version}' is not the version of weights ${weights.sha256.slice(0, 12)}; it ends in the first 12 digits of their hash`,
    );
  }
  return { version, uri: weights.uri, sha256: weights.sha256, mediaType: weights.mediaType };
}

/** What is wrong with sampler settings; empty if nothing is. */
export function samplerViolations(sampler: SamplerSettings | undefined, field: string): FieldViolation[] {
  if (sampler === undefined) return [{ field, description: 'is missing; give steps, guidance and shift' }];
  const found: FieldViolation[] = [];
  if (sampler.steps < 1 || sampler.steps > 1000) {
    found.push({ field: `${field}.steps`, description: `is ${sampler.steps}; use 1 to 1000` });
  }
  if (!(sampler.guidance >= 0 && sampler.guidance <= 30)) {
    found.push({
      field: `${field}.guidance`,
      description: `is ${sampler.guidance}; use 0 to 30, 1 is no guidance`,
    });
  }
  if (!(sampler.shift > 0 && sampler.shift <= 100)) {
    found.push({
      field: `${field}.shift`,
      description: `is ${sampler.shift}; use more than 0 and at most 100, 1 is none`,
    });
  }
  return found;
}
