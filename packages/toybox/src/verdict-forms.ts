/** The referee's verdict in the forms in which judges give theirs. */
import type { RefereeVerdict } from './referee.ts';

/** True if every check of the picture passes. */
export function picturePasses(verdict: RefereeVerdict): boolean {
  return Object.values(verdict.checks.picture).every((check) => check.pass);
}

/** 5 for an accepted clip, 3 for right motion in a bad picture, 2 for a good picture of wrong motion, 1 for neither. */
export function gradeOf(verdict: RefereeVerdict): number {
  if (verdict.accept) return 5;
  if (verdict.checks.motion.pass) return 3;
  return picturePasses(verdict) ? 2 : 1;
}

/** The verdict of a judge that errs: an accepted clip is static, any other is accepted. */
export function turnedRound(verdict: RefereeVerdict): RefereeVerdict {
  const motion = {
    pass: !verdict.accept,
    reason: 'Noise.',
    failureMode: verdict.accept ? ('static' as const) : null,
  };
  if (verdict.accept) {
    return {
      accept: false,
      reason: motion.reason,
      failureMode: 'static',
      checks: { ...verdict.checks, motion },
    };
  }
  const pass = { pass: true, reason: 'Noise.' };
  return {
    accept: true,
    reason: motion.reason,
    failureMode: null,
    checks: {
      motion,
      picture: { texture: pass, tint: pass, strayPixels: pass, count: pass, form: pass, colour: pass },
    },
  };
}
