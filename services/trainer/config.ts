import { serviceSettings } from '@plumb/kit/config';
import { z } from 'zod';
import { backendNames } from './domain/training-backend.ts';

/** Settings of the trainer, from the environment (PLUMB_*). */
export const trainerSettings = z.object({
  ...serviceSettings,
  artifacts: z
    .string()
    .min(1)
    .describe('the artifact store: a folder, for example .plumb/artifacts, or s3://bucket/prefix'),
  /** Looked into before the artifact store, and never written. */
  modelsFolder: z
    .string()
    .min(1)
    .optional()
    .describe('a folder that packages/media/bin/preload.ts has filled'),
  /** Where training runs: a process survives a native crash and an out-of-memory kill of the runtime. */
  engineForm: z.enum(['process', 'worker']).default('process').describe('process or worker'),
  /** Threads of the engine; unset is one for each core. A job that is resumed ends bit for bit the same only with the same number. */
  intraOpThreads: z.coerce.number().int().min(1).max(1024).optional().describe('a number of threads'),
  /** The Reward API that scores the clips of held-out probes; without it, jobs with a probe are refused. */
  rewardAddress: z.string().min(1).optional().describe('host:port of the reward service'),
  /** Longest wait for the scores of one probe, in seconds. */
  probeDeadlineSeconds: z.coerce.number().positive().max(86_400).default(600).describe('a number of seconds'),
  /** What computes gradients and samples of pipelines: `cuda` needs a GPU and the runtime's libraries for it. The built-in model is trained on the CPU. */
  device: z.enum(['cpu', 'cuda']).default('cpu').describe('cpu or cuda'),
  /** Where pipelines are unpacked; kept between starts. A temporary folder unless given. */
  pipelineCache: z
    .string()
    .min(1)
    .optional()
    .describe('a folder with room for the pipelines that are trained'),
  /** Steps between checkpoints of a job that does not say. */
  checkpointEverySteps: z.coerce
    .number()
    .int()
    .min(1)
    .default(50)
    .describe('a number of steps, for example 50'),
  /** Most memory for the decoded clips of a data set, in bytes; a larger one is refused. */
  maxDataSetBytes: z.coerce
    .number()
    .int()
    .min(1)
    .default(8 * 2 ** 30)
    .describe('a number of bytes'),
  /** Where jobs run: in this process, or in pods of a Kubernetes cluster. docs/kubernetes-training.md explains what follows. */
  trainingBackend: z.enum(backendNames).default('local').describe('local, kubernetes-job or kubeflow'),
  /** Outside of a pod, the path of a kubeconfig; in a pod, its service account is used. */
  kubeconfig: z.string().min(1).optional().describe('the path of a kubeconfig'),
  kubeContext: z.string().min(1).optional().describe('a context of the kubeconfig'),
  kubeNamespace: z.string().min(1).optional().describe('the namespace of the training pods'),
  /** What training pods are made from. */
  trainingPodTemplate: z
    .string()
    .min(1)
    .optional()
    .describe('the path of a YAML file with a pod template (docs/kubernetes-training.md)'),
  /** Keeps apart trainers that share a namespace; part of the names of their jobs. */
  trainingInstance: z
    .string()
    .regex(/^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$/, 'must be a DNS label of at most 40 characters')
    .default('plumb')
    .describe('a name such as plumb, of lower-case letters, digits and -'),
  /** The jobs go when it goes. */
  trainingOwner: z
    .string()
    .regex(/^Deployment\/[-a-z0-9.]+$/, 'must be Deployment/<name>')
    .optional()
    .describe('Deployment/<name of the Deployment of the trainer>'),
  trainingNodes: z.coerce
    .number()
    .int()
    .min(1)
    .max(1024)
    .default(1)
    .describe('pods that train one job together; our own program trains in 1'),
  trainingQueue: z.string().min(1).optional().describe('the name of a LocalQueue of Kueue'),
  trainingPriorityClass: z
    .string()
    .min(1)
    .optional()
    .describe('the name of a WorkloadPriorityClass of Kueue'),
  trainingBackoffLimit: z.coerce
    .number()
    .int()
    .min(0)
    .max(100)
    .default(3)
    .describe('failures of pods before a job has failed, 0 to 100'),
  trainingActiveDeadlineSeconds: z.coerce
    .number()
    .int()
    .min(1)
    .optional()
    .describe('longest time that a job may be active, in seconds'),
  trainingTtlSeconds: z.coerce
    .number()
    .int()
    .min(0)
    .default(86_400)
    .describe('seconds that a finished job stays in the cluster'),
  trainingImageDeadlineSeconds: z.coerce
    .number()
    .positive()
    .default(600)
    .describe('seconds after which an image that cannot be had fails the job'),
  /** Kubeflow's ClusterTrainingRuntime. */
  trainingRuntime: z
    .string()
    .min(1)
    .default('torch-distributed')
    .describe('the name of a ClusterTrainingRuntime'),
});

/** Settings of the program that pods run for one job (job.ts): those of the trainer, and how other programs train for it. */
export const trainingJobSettings = trainerSettings.extend({
  /** Trains in place of this process's own engine: `trainers/torch`, as docs/distributed-training.md says. Words are separated by spaces. */
  trainingCommand: z
    .string()
    .min(1)
    .optional()
    .describe('a command line, for example torchrun --nproc-per-node=gpu -m plumb_torch'),
  /** What that command reads and writes; all pods of a job share it. */
  trainingFolder: z.string().min(1).optional().describe('a folder that all pods of a job share'),
  /** The base of jobs on pipelines, with weights that PyTorch reads. */
  trainingModel: z
    .string()
    .min(1)
    .optional()
    .describe('a pipeline in the layout of diffusers, with the weights of PyTorch'),
});

export type TrainerConfig = z.output<typeof trainerSettings>;
