import { failedPrecondition } from '@plumb/kit/errors';
import type { FieldViolation, PlumbError } from '@plumb/kit/errors';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { groupSize } from './sample-plan.ts';

/** What raters say of the clip of a sample; each rater counts once. */
export interface ClipVerdicts {
  readonly accepting: number;
  readonly rejecting: number;
}

/** True when the data set takes the verdicts of people in place of the judge's. */
export function takesHumanLabels(spec: Pick<RunSpec, 'labels'>): boolean {
  return spec.labels?.use === 'override';
}

/** What more than half of the raters of a clip say; undefined where they are divided, and where there are none. */
export function majorityVerdict({ accepting, rejecting }: ClipVerdicts): boolean | undefined {
  return accepting === rejecting ? undefined : accepting > rejecting;
}

/** Everything that is wrong with a spec's labels; empty is valid. */
export function humanLabelViolations(spec: RunSpec): FieldViolation[] {
  const { labels, objective, evaluation } = spec;
  if (labels === undefined) return [];
  const violations: FieldViolation[] = [];
  if (labels.use !== 'none' && labels.use !== 'override') {
    violations.push({
      field: 'labels.use',
      description: `'${labels.use}' is unknown; use none or override`,
    });
  }
  const most = groupSize(spec, 'train');
  if (labels.atLeast < 0 || labels.atLeast > most) {
    violations.push({
      field: 'labels.at_least',
      description: `${labels.atLeast} is out of range; an iteration has ${most} training clips, use 0 to ${most}`,
    });
  }
  if (labels.use !== 'override') {
    if (labels.atLeast > 0) {
      violations.push({
        field: 'labels.at_least',
        description: `${labels.atLeast} labels would be waited for and not used; set labels.use to override`,
      });
    }
  } else if (objective?.reward !== evaluation?.reward) {
    violations.push({
      field: 'labels.use',
      description: `people say what '${evaluation?.reward ?? ''}' says, accept or reject, and the run trains on '${objective?.reward ?? ''}'; train on '${evaluation?.reward ?? ''}', or use none`,
    });
  }
  return violations;
}

/**
 * Why the data set cannot be frozen yet; undefined when it can.
 * @param verdicts of the iteration's training samples that somebody has rated
 */
export function humanLabelsMissing(
  spec: Pick<RunSpec, 'labels'>,
  iteration: number,
  verdicts: Iterable<ClipVerdicts>,
): PlumbError | undefined {
  const needed = takesHumanLabels(spec) ? (spec.labels?.atLeast ?? 0) : 0;
  let decided = 0;
  for (const verdict of verdicts) if (majorityVerdict(verdict) !== undefined) decided += 1;
  if (decided >= needed) return undefined;
  return failedPrecondition(
    `people have decided on ${decided} training clips of iteration ${iteration}, and the spec waits for ${needed} (labels.at_least); ` +
      'open a label session on training prompts, have them rated, and resume',
    {
      reason: 'HUMAN_LABELS_MISSING',
      metadata: { iteration: String(iteration), decided: String(decided), needed: String(needed) },
    },
  );
}
