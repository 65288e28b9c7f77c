import type { FieldViolation } from '@plumb/kit/errors';
import type { Label } from '@plumb/proto/plumb/loop/v1/label_pb.js';

/** Why a person may have rejected a clip. */
export const failureModes = [
  'static',
  'wrong_direction',
  'vanished',
  'interpenetrated',
  'wrong_colour',
  'wrong_count',
  'other',
] as const;

/** Longest pseudonym of a rater, in characters. */
const maxRaterLength = 100;

/** Everything that is wrong with a label, apart from whether its samples exist; empty is valid. */
export function labelViolations(label: Label | undefined): FieldViolation[] {
  if (label === undefined)
    return [{ field: 'label', description: 'is missing; say what the rater answered' }];
  const violations: FieldViolation[] = [];
  const reject = (field: string, description: string): void => {
    violations.push({ field: `label.${field}`, description });
  };
  const { answer, failureMode, rater, sampleId } = label;
  if (sampleId === '') reject('sample_id', 'is missing; name the sample that was looked at');
  if (rater.trim() === '' || rater.length > maxRaterLength) {
    reject('rater', `give a pseudonym of 1 to ${maxRaterLength} characters`);
  }
  if (answer.case === undefined)
    reject('answer', 'is missing; accept or reject, or name the sample that lost');
  if (answer.case === 'preferredToSampleId' && answer.value === sampleId) {
    reject('preferred_to_sample_id', 'is the sample itself; name another');
  }
  const known: readonly string[] = failureModes;
  if (failureMode !== '' && !known.includes(failureMode)) {
    reject('failure_mode', `'${failureMode}' is unknown; use one of ${failureModes.join(', ')}`);
  } else if (failureMode !== '' && !(answer.case === 'accept' && !answer.value)) {
    reject('failure_mode', 'is for rejected samples only; leave it empty');
  }
  return violations;
}
