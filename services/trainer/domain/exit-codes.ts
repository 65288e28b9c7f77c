/**
 * Exit codes of a training job's pod (job.ts). The job's pod failure policy reads them: 65 and 78 end the job, anything else
 * may be tried again. Numbers as in sysexits(3).
 */
export const exitCodes = {
  /** The record has the job's end, or another process has it in hand: nothing is left to do. */
  done: 0,
  /** The job has failed for good, for example on bad input; the record has the error. */
  failed: 65,
  /** Something that may pass: the job goes on from its last checkpoint in a new pod. */
  tryAgain: 75,
  /** The settings of the pod are wrong. */
  configuration: 78,
} as const;
