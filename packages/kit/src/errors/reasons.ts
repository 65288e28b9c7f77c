/**
 * The closed list of reasons: what google.rpc.ErrorInfo.reason may say under the domain 'plumb'. A program may branch on
 * them, so a reason is never renamed; a new kind of failure adds one here.
 */
export const errorReasons = [
  // any request
  'INVALID_FIELD',
  'MISSING_FIELD',
  'RESOURCE_NOT_FOUND',
  'RESOURCE_EXISTS',
  'PRECONDITION_FAILED',
  'REVISION_CONFLICT',
  'IDEMPOTENCY_KEY_REUSED',
  'METHOD_UNIMPLEMENTED',
  'ACCESS_DENIED',
  'CREDENTIALS_INVALID',
  'CANCELLED',
  'DEADLINE_EXCEEDED',
  'OVERLOADED',
  'RATE_LIMITED',
  'QUOTA_EXHAUSTED',
  'SHUTTING_DOWN',
  'UNEXPECTED',
  'REMOTE_ERROR',
  // process and machine
  'CONFIGURATION_INVALID',
  'DISK_FULL',
  'FILE_ACCESS_DENIED',
  'FILE_NOT_FOUND',
  'FILE_EXISTS',
  'TOO_MANY_OPEN_FILES',
  'PORT_IN_USE',
  'ADDRESS_NOT_AVAILABLE',
  'ADDRESS_NOT_LOOPBACK',
  'CONNECTION_FAILED',
  'PROCESS_FAILED',
  // broker
  'BROKER_UNAVAILABLE',
  'BROKER_REFUSED',
  'QUEUE_FULL',
  'MESSAGE_TOO_LARGE',
  'MESSAGE_UNDECODABLE',
  'DELIVERIES_EXHAUSTED',
  // artifacts and models
  'ARTIFACT_NOT_FOUND',
  'ARTIFACT_CORRUPT',
  'CLIP_MISMATCH',
  'MODEL_NOT_FOUND',
  'MODEL_CORRUPT',
  'PROMPT_UNKNOWN_WORD',
  // numerics and engine
  'SHAPE_MISMATCH',
  'NUMERICS_NOT_FINITE',
  'ENGINE_FAILED',
  // scoring and judging
  'REWARD_UNKNOWN',
  'REWARD_FAILED',
  'REWARD_GOLDEN_MISMATCH',
  'JUDGE_UNKNOWN',
  'JUDGE_UNAVAILABLE',
  'JUDGE_ANSWER_INVALID',
  'JUDGE_MISCONFIGURED',
  'JUDGE_REQUEST_REJECTED',
  'JUDGE_BUDGET_EXHAUSTED',
  'JUDGE_HELD_OUT',
  // training and runs
  'JOB_NOT_FOUND',
  'JOB_CONFLICT',
  'JOB_FAILED',
  'TRAINING_DIVERGED',
  'OVER_OPTIMISED',
  'PROBE_FAILED',
  'DATASET_UNUSABLE',
  'RUN_NOT_FOUND',
  'RUN_CONFLICT',
  'LEDGER_FAILED',
  'TOO_MANY_ERRORS',
  'HUMAN_LABELS_MISSING',
  'BUDGET_EXHAUSTED',
] as const;

export type ErrorReason = (typeof errorReasons)[number];

const known: ReadonlySet<string> = new Set(errorReasons);

/** True for a reason of the closed list. */
export function isErrorReason(text: string): text is ErrorReason {
  return known.has(text);
}
