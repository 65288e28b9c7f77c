/** How a clip fails its caption, as the referee tells it. */
export const failureModes = [
  'static',
  'wrong_direction',
  'vanished',
  'interpenetrated',
  'wrong_colour',
  'wrong_count',
  'not_deformed',
  'floating',
  'picture',
  'other',
] as const;
export type FailureMode = (typeof failureModes)[number];

/** The outcome of one check: whether it passed, and a sentence that says what was seen. */
export type Check = { readonly pass: boolean; readonly reason: string };

/** The outcome of the motion rules: a failed one names its mode. */
export type MotionCheck = Check & { readonly failureMode: FailureMode | null };

/** What happens is what the caption says. */
export function happened(reason: string): MotionCheck {
  return { pass: true, reason, failureMode: null };
}

/** What happens is not what the caption says. */
export function failed(failureMode: FailureMode, reason: string): MotionCheck {
  return { pass: false, reason, failureMode };
}
