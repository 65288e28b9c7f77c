import { z } from 'zod';
import { settingsOf } from './service-settings.ts';
import type { ServiceName } from './service-settings.ts';

/*
 * The chart's values, each with a sentence for its reader. values.schema.json and the table of docs/kubernetes-values.md are
 * made from it (npm run chart). Defaults stand in values.yaml. Parts of Kubernetes objects are passed on as they are; the
 * cluster checks them.
 */

/** A name of a Kubernetes object; empty for none. */
const objectName = z.string().regex(/^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$/);
const stringMap = z.record(z.string(), z.string());
const kubernetesObject = z.record(z.string(), z.unknown());
const kubernetesObjects = z.array(kubernetesObject);
const quantity = z.union([z.string(), z.number()]);
const wholeNumber = z.int();

/** Every key may be left out: values.yaml has it. */
const optional = <Shape extends z.ZodRawShape>(shape: Shape) => z.strictObject(shape).partial();

const resources = optional({
  requests: z.record(z.string(), quantity),
  limits: z.record(z.string(), quantity),
  claims: kubernetesObjects,
}).describe('requests and limits of the container; limits of `nvidia.com/gpu` come from `gpu.count`');

const secretKey = (what: string) =>
  optional({
    name: objectName.describe('name of the Secret'),
    key: z.string().describe('key in the Secret'),
  }).describe(what);

const image = optional({
  registry: z.string().describe('registry with its path, for example `registry.example/plumb`'),
  repository: z.string().describe('name of the image; `plumb-<component>` unless given'),
  tag: z.string().describe("tag; the chart's version unless given"),
  digest: z
    .string()
    .regex(/^(sha256:[0-9a-f]{64})?$/)
    .describe('`sha256:...`; used in place of the tag'),
  variant: z
    .enum(['cpu', 'cuda'])
    .describe('`cuda` adds `-cuda` to the tag: the image with the CUDA libraries'),
  pullPolicy: z.enum(['Always', 'IfNotPresent', 'Never']).describe('when the image is fetched'),
}).describe('the image');

const scheduling = {
  nodeSelector: stringMap.describe('labels that a node must have'),
  tolerations: kubernetesObjects.describe('taints that are tolerated'),
  affinity: kubernetesObject.describe('affinity and anti-affinity'),
  topologySpreadConstraints: kubernetesObjects.describe(
    'spread over nodes and zones; a `labelSelector` is added where there is none',
  ),
  priorityClassName: z.string().describe('priority class'),
  runtimeClassName: z.string().describe('runtime class, for example `nvidia`'),
};

const probe = optional({
  periodSeconds: wholeNumber.min(1),
  timeoutSeconds: wholeNumber.min(1),
  failureThreshold: wholeNumber.min(1),
});

const serviceAccount = optional({
  create: z.boolean().describe('makes a service account of its own'),
  name: objectName.describe('name of the service account; must exist unless it is made'),
  annotations: stringMap.describe('for example the role that gives access to the bucket'),
}).describe('identity of the pods');

const podLabels = stringMap.describe('more labels of pods');
const podAnnotations = stringMap.describe('annotations of pods');
const scratchSize = z.string().describe('size of `/tmp`, the only folder that can be written');

/** What every component has, under `default` and again under its own name. */
const common = {
  image,
  replicas: wholeNumber.min(0).describe('pods; an autoscaler that is on decides by itself'),
  resources,
  ...scheduling,
  podLabels,
  podAnnotations,
  env: kubernetesObjects.describe(
    'more environment variables; take secrets by `valueFrom`, for example the API key of a judge endpoint',
  ),
  volumes: kubernetesObjects.describe('more volumes'),
  volumeMounts: kubernetesObjects.describe('more mounts of the container'),
  scratchSize,
  probes: optional({
    startup: probe.describe('until the service serves for the first time: models are loaded here'),
    readiness: probe.describe('whether calls are sent to the pod'),
    liveness: probe.describe('whether the process answers at all'),
  }).describe(
    'probes; gRPC health on plain text, `/readyz` beside the metrics with TLS, which no kubelet speaks',
  ),
  terminationGracePeriodSeconds: wholeNumber
    .min(1)
    .describe('time for a pod to end; a service takes 20 s at most, so more than that'),
  serviceAccount,
  disruptionBudget: optional({
    enabled: z.boolean().describe('makes a PodDisruptionBudget'),
    maxUnavailable: z.union([wholeNumber, z.string()]).describe('pods that may be away at a time'),
  }).describe('how many pods a drain of nodes may take at a time'),
};

const gpu = optional({
  count: wholeNumber.min(0).max(16).describe('GPUs of each pod; needs `image.variant: cuda`'),
  resource: z.string().describe('name of the resource'),
  nodeSelector: stringMap.describe('labels of nodes with a GPU'),
  tolerations: kubernetesObjects.describe('taints of nodes with a GPU'),
}).describe('GPUs');

const models = optional({
  size: z.string().describe('size of a volume that lives as long as the pod'),
  existingClaim: objectName.describe('a claim in place of it, which pods share and which stays'),
  preload: z
    .array(
      z.strictObject({
        sha256: z.string().regex(/^[0-9a-f]{64}$/),
        url: z
          .string()
          .regex(/^https:\/\//)
          .optional(),
        path: z
          .string()
          .regex(/^[\w.-]+(\/[\w.-]+)*$/)
          .optional(),
      }),
    )
    .describe(
      'fetched by an init container before the service starts and checked against `sha256`: from the artifact store, or from `url`; kept where the service looks for artifacts first, and at `path` under `/models` where that is given',
    ),
}).describe('a volume with models at `/models`');

const autoscaling = optional({
  kind: z
    .enum(['none', 'keda', 'hpa'])
    .describe('`keda` scales on what waits in JetStream, `hpa` on the use of CPU'),
  minReplicas: wholeNumber
    .min(0)
    .describe('0 is for `keda` alone; a service at 0 answers no calls, only tasks'),
  maxReplicas: wholeNumber.min(1),
  lagThreshold: wholeNumber.min(1).describe('tasks that wait, for each pod'),
  pollingIntervalSeconds: wholeNumber.min(1).describe('time between two looks'),
  cooldownSeconds: wholeNumber.min(0).describe('time without tasks before the last pod goes'),
  cpuUtilization: wholeNumber.min(1).max(100).describe('for `hpa`: percent of the CPU that is requested'),
  behavior: kubernetesObject.describe('behaviour of the HorizontalPodAutoscaler'),
}).describe('number of pods by load');

const component = <Shape extends z.ZodRawShape>(name: ServiceName, more: Shape, what: string) =>
  optional({
    ...common,
    settings: settingsOf(name).describe('settings of the service, in camel case; each becomes its variable'),
    ...more,
  }).describe(what);

const certificates = optional({
  generator: objectName,
  reward: objectName,
  judge: objectName,
  trainer: objectName,
  loop: objectName,
  referee: objectName,
  client: objectName,
  nats: objectName,
  postgresql: objectName,
});

const peers = (what: string) => kubernetesObjects.describe(`${what}; NetworkPolicyPeer objects`);

export const valuesSchema = optional({
  nameOverride: objectName.describe('in place of the chart in names'),
  fullnameOverride: objectName.describe('in place of release and chart in names'),
  clusterDomain: z.string().describe('domain of the cluster, for certificates'),
  imagePullSecrets: z.array(z.strictObject({ name: objectName })).describe('secrets of the registry'),
  listenHost: z.enum(['0.0.0.0', '[::]']).describe('what services bind; `[::]` on IPv6 clusters'),
  maxConnectionAgeSeconds: wholeNumber
    .min(1)
    .describe('age at which clients connect anew, which spreads calls over new pods'),

  default: optional(common).describe('for every component that does not say otherwise'),
  components: optional({
    generator: component('generator', { gpu, models, autoscaling }, 'samples clips'),
    reward: component(
      'reward',
      {
        gpu,
        models,
        autoscaling,
        definitionsConfigMap: objectName.describe(
          'ConfigMap with reward definitions; those of the image unless given',
        ),
      },
      'the Reward API',
    ),
    judge: component(
      'judge',
      {
        autoscaling,
        judgesConfigMap: objectName.describe(
          "ConfigMap with `judges.yaml`; the toybox's judges, which need `components.referee`, unless given",
        ),
      },
      'asks vision-language models',
    ),
    trainer: component('trainer', { gpu, models }, 'trains; one pod'),
    loop: component(
      'loop',
      {
        leaderElection: z
          .boolean()
          .describe('one of several pods reconciles, chosen by a Lease; needed for more than one replica'),
      },
      'plans, keeps the ledger, promotes',
    ),
    referee: optional({
      ...common,
      enabled: z.boolean().describe('runs the rule-based stand-in for a vision-language model of the toybox'),
    }).describe('the toybox referee, for trying Plumb out'),
  }).describe('the services'),

  artifacts: optional({
    url: z
      .string()
      .regex(/^(s3:\/\/\S+)?$/)
      .describe('`s3://bucket/prefix`'),
    s3: optional({
      endpoint: z.string().describe("URL of a store that is not Amazon's"),
      region: z.string().describe('region of the bucket'),
      credentialsSecret: objectName.describe(
        'Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; without it, the role of the service account',
      ),
    }).describe('access to the bucket'),
    volume: optional({
      enabled: z.boolean().describe('keeps artifacts on a volume in place of S3'),
      existingClaim: objectName.describe('a claim that exists, in place of a new one'),
      size: z.string().describe('size of the new claim'),
      storageClassName: z.string().describe('storage class of the new claim; the default one unless given'),
      accessMode: z
        .enum(['ReadWriteOnce', 'ReadWriteMany'])
        .describe('`ReadWriteOnce` is enough where all pods are on one node'),
    }).describe('a shared volume'),
  }).describe('clips, weights and manifests: a bucket or a volume'),

  nats: optional({
    builtin: optional({
      enabled: z.boolean().describe('runs NATS with JetStream in this release'),
      replicas: z.union([z.literal(1), z.literal(3), z.literal(5)]).describe('1, or a cluster of 3 or 5'),
      image: z.string().describe('image of nats-server'),
      resources,
      storage: optional({ size: z.string(), storageClassName: z.string() }).describe(
        'the volume of JetStream',
      ),
      ...scheduling,
    }).describe('a plain NATS of this chart'),
    url: z
      .string()
      .regex(/^((nats|tls):\/\/\S+)?$/)
      .describe('address of a NATS elsewhere; several separated by commas'),
    streamReplicas: wholeNumber
      .min(0)
      .max(5)
      .describe('copies of streams; 0 is as many as the built-in NATS has pods'),
    monitoringEndpoint: z.string().describe('host:port of the monitoring of a NATS elsewhere; KEDA asks it'),
    account: z.string().describe('account of the streams, for KEDA'),
    caSecret: secretKey('authority of a NATS elsewhere; makes connections speak TLS'),
    usersSecret: objectName.describe(
      'Secret with a password for each of `generator`, `reward`, `judge`, `trainer`, `loop` and `operator`; each user has the subjects that its service needs',
    ),
    credentialsSecret: objectName.describe(
      'Secret with `<service>.creds` for a NATS elsewhere, in place of passwords',
    ),
  }).describe('the broker: built in, or elsewhere'),

  postgresql: optional({
    builtin: optional({
      enabled: z
        .boolean()
        .describe('runs a single PostgreSQL in this release, for trying out and for small teams'),
      image: z.string().describe('image of PostgreSQL'),
      resources,
      storage: optional({ size: z.string(), storageClassName: z.string() }).describe('the volume'),
      ...scheduling,
    }).describe('a plain PostgreSQL of this chart'),
    url: z
      .string()
      .regex(/^(postgres(ql)?:\/\/[^\s:@/]+@\S+)?$/)
      .describe(
        '`postgres://user@host:5432/database` elsewhere, without a password; `?sslmode=verify-full` for TLS',
      ),
    passwordSecret: secretKey('the password'),
    caSecret: secretKey('authority of a PostgreSQL elsewhere'),
  }).describe('the ledger: built in, or elsewhere'),

  tls: optional({
    mode: z
      .enum(['cert-manager', 'secrets', 'insecure-plaintext'])
      .describe('where certificates come from; the last is for clusters whose network encrypts'),
    mutual: z.boolean().describe('clients must show a certificate'),
    certManager: optional({
      issuerRef: optional({ name: z.string(), kind: z.string(), group: z.string() }).describe(
        'issuer; without a name the chart makes an authority of its own',
      ),
      duration: z.string().describe('how long a certificate is valid'),
      renewBefore: z.string().describe('how long before its end it is made anew'),
    }).describe('certificates by cert-manager'),
    secrets: certificates.describe('TLS Secrets (`tls.crt`, `tls.key`, `ca.crt`) for mode `secrets`'),
  }).describe('encryption of gRPC, NATS and PostgreSQL'),

  auth: optional({
    mode: z
      .enum(['certificates', 'tokens', 'insecure-none'])
      .describe(
        'how callers are known: by certificate (needs `tls.mutual`), by token, or not at all where the network controls access',
      ),
    callers: kubernetesObjects.describe(
      "more callers for mode `certificates`, as in a callers' file; a token stands there as its SHA-256",
    ),
    callersSecret: objectName.describe('Secret with `callers.yaml`, for mode `tokens`'),
    tokensSecret: objectName.describe(
      'Secret with the tokens of `loop`, `reward`, `trainer` and `client`, for mode `tokens`',
    ),
    jwt: optional({
      jwks: z.string().describe('https:// URL of the keys'),
      issuer: z.string(),
      audience: z.string(),
      rolesClaim: z.string(),
    }).describe('JSON Web Tokens of an issuer, beside the others'),
    callsPerSecond: z.number().min(0).describe('limit for a caller that has none of its own; 0 is none'),
    itemsPerHour: wholeNumber.min(0).describe('limit for a caller that has none of its own; 0 is none'),
  }).describe('who may call what'),

  trustedCaSecret: secretKey(
    'an authority that outgoing HTTPS trusts besides the usual ones: S3, judge endpoints, JWKS',
  ),

  networkPolicy: optional({
    enabled: z.boolean().describe('allows the connections of the architecture and no others'),
    clients: peers('who may call loop, reward, generator and judge besides the services'),
    metrics: peers('who may read metrics'),
    dashboard: peers('who may open the dashboard: the ingress controller'),
    dns: peers('where names are looked up'),
    artifacts: peers('where the bucket is'),
    artifactsPorts: z.array(wholeNumber).describe('ports of the bucket'),
    judgeEndpoints: peers('where vision-language models are'),
    judgeEndpointsPorts: z.array(wholeNumber).describe('ports of vision-language models'),
    nats: peers('where a NATS elsewhere is'),
    postgresql: peers('where a PostgreSQL elsewhere is'),
    telemetry: peers('where the collector is'),
    telemetryPorts: z.array(wholeNumber).describe('ports of the collector'),
    kubernetesApi: peers('where the API server is'),
    kubernetesApiPorts: z.array(wholeNumber).describe('ports of the API server'),
    keda: peers('where KEDA is: it asks NATS'),
  }).describe('network policies'),

  migrations: optional({
    hook: z
      .boolean()
      .describe(
        'brings the schema of the ledger up to date in a Job before an upgrade; the loop does it at its start anyway',
      ),
    activeDeadlineSeconds: wholeNumber.min(1).describe('time for the Job'),
  }).describe('schema of the ledger'),

  training: optional({
    backend: z
      .enum(['local', 'kubernetes-job', 'kubeflow'])
      .describe("where training runs: in the trainer's pod, as a batch/v1 Job, or as a TrainJob"),
    queueName: objectName.describe(
      "Kueue's LocalQueue of jobs; the one that `kueue.createQueues` makes unless given, and no Kueue without either",
    ),
    priorityClass: objectName.describe("Kueue's WorkloadPriorityClass of jobs"),
    job: optional({
      image,
      command: z
        .array(z.string())
        .min(1)
        .describe("the program of the container; the job's id is its last argument"),
      nodes: wholeNumber
        .min(1)
        .max(1024)
        .describe('pods of a job; more than 1 needs an image and a command that train across pods'),
      gpu,
      models,
      resources,
      ...scheduling,
      podLabels,
      podAnnotations,
      env: kubernetesObjects.describe('more environment variables'),
      scratchSize,
      serviceAccount,
      activeDeadlineSeconds: wholeNumber
        .min(0)
        .describe(
          'longest time that a job may be active, in seconds; waiting in a queue does not count; 0 is no limit',
        ),
      imageDeadlineSeconds: wholeNumber
        .min(1)
        .describe('time after which an image that cannot be had fails the job, in seconds'),
      backoffLimit: wholeNumber
        .min(0)
        .max(100)
        .describe(
          'failures of pods before a Job has failed; evictions, preemptions and lost nodes do not count, and bad input or bad settings fail it at once',
        ),
      ttlSecondsAfterFinished: wholeNumber.min(0).describe('how long a finished Job stays, in seconds'),
      runtime: objectName.describe(
        'name of the ClusterTrainingRuntime, for `kubeflow`, which has its own retries and time to live',
      ),
    }).describe(
      "pods of training jobs; the image is the trainer's, with what stands here over it, and `components.trainer.settings` hold for them too",
    ),
  }).describe('training on the cluster'),

  feedbackRuns: optional({
    enabled: z.boolean().describe('the loop reconciles FeedbackRun objects of the namespace'),
  }).describe('runs as Kubernetes objects'),

  dashboard: optional({
    enabled: z
      .boolean()
      .describe('the loop serves the dashboard, at the Service `<release>-dashboard`, port 80'),
    keySecret: secretKey('32 random bytes or more, which sign the links that let people in'),
    ingress: optional({
      enabled: z.boolean().describe('makes an Ingress with TLS: the dashboard itself speaks plain HTTP'),
      className: z.string().describe('class of the Ingress; the default one unless given'),
      host: z.string().describe('the name that browsers call'),
      tlsSecret: objectName.describe(
        "TLS Secret of that name; the controller's own certificate unless given",
      ),
      annotations: stringMap.describe('for example `cert-manager.io/cluster-issuer`'),
    }).describe('the way in from outside'),
  }).describe('the dashboard'),

  kueue: optional({
    createQueues: z.boolean().describe('makes a ResourceFlavor, a ClusterQueue and a LocalQueue'),
    flavor: optional({
      nodeLabels: stringMap.describe('labels of its nodes'),
      tolerations: kubernetesObjects.describe('taints of its nodes'),
    }).describe('the ResourceFlavor'),
    quota: z.record(z.string(), quantity).describe('what jobs may use at a time, by resource'),
    cohort: z.string().describe('cohort of the ClusterQueue'),
    withinClusterQueue: z
      .enum(['Never', 'LowerPriority', 'LowerOrNewerEqualPriority'])
      .describe('which of its own jobs a waiting one may push out'),
  }).describe('queues of Kueue for training jobs'),

  telemetry: optional({
    otlpEndpoint: z.string().describe('OTLP/HTTP address of a collector; none sends no traces'),
    traceRatio: z.number().min(0).max(1).describe('share of traces that are sent'),
  }).describe('traces and metrics'),
  monitoring: optional({
    podMonitor: optional({
      enabled: z.boolean().describe("makes a PodMonitor of the Prometheus operator's"),
      labels: stringMap.describe('labels by which Prometheus finds it'),
      interval: z.string().describe('time between two readings'),
    }).describe('readings by the Prometheus operator'),
    alerts: optional({
      enabled: z.boolean().describe('makes a PrometheusRule of `deploy/alerts`'),
      labels: stringMap.describe('labels by which Prometheus finds it'),
    }).describe('alerts'),
    dashboards: optional({
      enabled: z.boolean().describe('makes ConfigMaps of `deploy/dashboards`'),
      labels: stringMap.describe("labels by which Grafana's sidecar finds them"),
    }).describe('dashboards'),
  }).describe('Prometheus and Grafana'),
});
