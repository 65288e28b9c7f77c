import { listenAddress, serviceSettings } from '@plumb/kit/config';
import { z } from 'zod';

/** Settings of the loop service; each is read from the environment variable PLUMB_<NAME>. */
export const loopSettings = z.object({
  ...serviceSettings,
  artifacts: z
    .string()
    .min(1)
    .describe('the artifact store: a folder, for example .plumb/artifacts, or s3://bucket/prefix'),
  databaseUrl: z
    .string()
    .regex(/^(pglite:.+|postgres(ql)?:\/\/.+)$/, 'is no database of ours')
    .describe('pglite:<folder>, or postgres://user@host/database'),
  trainerAddress: z.string().min(1).describe('host:port of the trainer service'),
  /** Lets samples that take over a clip take over its scores as well, when the reward's version is still the same. */
  rewardAddress: z.string().min(1).optional().describe('host:port of the reward service'),
  /** Keeps the budgets of tokens and money, and tells what the judges of a run have cost. */
  judgeAddress: z.string().min(1).optional().describe('host:port of the judge service'),
  /** The dashboard's address; it is served when there is a key for its links. */
  webListen: listenAddress
    .default('127.0.0.1:0')
    .describe('host:port of the dashboard, for example 127.0.0.1:8080 (port 0: a free one)'),
  /** Signs the links that let people in: without it there is no dashboard. */
  webKeyFile: z
    .string()
    .min(1)
    .optional()
    .describe('the path of a file with 32 random bytes or more, for example of openssl rand -hex 32'),
  /** What the dashboard's page of studies shows. */
  studies: z
    .string()
    .min(1)
    .optional()
    .describe('the folder that `plumb study` keeps its studies in, for example .plumb-studies'),
  /** Of several processes that share a PostgreSQL ledger one does the work, chosen by a Lease of Kubernetes. */
  leaderElection: z.stringbool().default(false).describe('true or false'),
  /** FeedbackRun objects of the pod's namespace become runs (docs/feedback-runs.md). */
  feedbackRuns: z.stringbool().default(false).describe('true or false'),
  podName: z.string().min(1).optional().describe("the pod's name, by the downward API"),
  podNamespace: z.string().min(1).optional().describe("the pod's namespace, by the downward API"),
  /** Outside of a pod, the path of a kubeconfig; in a pod, its service account is used. */
  kubeconfig: z.string().min(1).optional().describe('the path of a kubeconfig'),
  kubeContext: z.string().min(1).optional().describe('a context of the kubeconfig'),
  /** More keeps workers busier between two looks at the ledger; less loses less work when a run is cancelled. */
  maxOutstandingTasks: z.coerce
    .number()
    .int()
    .min(1)
    .max(100_000)
    .default(256)
    .describe('most tasks of a run in each queue, 1 to 100000'),
  /** Longer than the slowest batch takes: a task that is merely slow would be done twice. */
  republishAfterSeconds: z.coerce
    .number()
    .positive()
    .default(120)
    .describe('seconds without any result after which tasks are published again'),
  /** Without progress for this long, a stage counts as stalled: a warning, an event in the trace and a metric. */
  stallAfterSeconds: z.coerce
    .number()
    .positive()
    .default(300)
    .describe('seconds without progress after which a stage counts as stalled'),
  stallBudgets: z
    .string()
    .default('')
    .describe('other seconds for single stages, for example generate=600,train=1800'),
});
