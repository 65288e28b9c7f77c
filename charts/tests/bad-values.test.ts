import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { exampleFile } from '../src/examples.ts';
import { render } from '../src/helm.ts';

/** What is set over an example, and the sentence that it must bring about. */
const table: readonly { on: string; set: readonly string[]; says: RegExp }[] = [
  {
    on: 'kind',
    set: ['components.generator.gpu.count=1'],
    says: /components\.generator\.gpu\.count is 1 and its image is the one for CPU; set components\.generator\.image\.variant to cuda/,
  },
  {
    on: 'kind',
    set: ['components.trainer.image={"variant":"cuda"}'],
    says: /components\.trainer\.image\.variant is cuda and no GPU is asked for; set components\.trainer\.gpu\.count to 1/,
  },
  {
    on: 'one-gpu-node',
    set: [
      'nats.builtin.enabled=false',
      'nats.url="nats://nats.messaging.svc:4222"',
      'networkPolicy.nats=[{"ipBlock":{"cidr":"10.0.0.0/8"}}]',
    ],
    says: /autoscaling\.kind is keda and nobody tells how much waits; set nats\.monitoringEndpoint/,
  },
  {
    on: 'kind',
    set: ['components.judge.autoscaling.kind="keda"'],
    says: /components\.judge\.autoscaling\.kind is keda and judge takes no tasks from a queue; set it to hpa/,
  },
  {
    on: 'kind',
    set: ['components.reward.autoscaling={"kind":"hpa","minReplicas":0}'],
    says: /minReplicas is 0 and an hpa never goes there/,
  },
  {
    on: 'kind',
    set: ['components.reward.autoscaling={"kind":"keda","minReplicas":9}'],
    says: /minReplicas is 9 and maxReplicas 8; make the first the smaller one/,
  },
  {
    on: 'kind',
    set: ['components.reward.autoscaling.kind="hpa"', 'components.reward.resources={"requests":null}'],
    says: /counts in percent of the CPU that is requested; set components\.reward\.resources\.requests\.cpu/,
  },
  {
    on: 'kind',
    set: ['components.loop.replicas=2'],
    says: /components\.loop\.replicas is 2 and each would reconcile every run; set components\.loop\.leaderElection to true/,
  },
  {
    on: 'kind',
    set: ['default.replicas=3'],
    says: /components\.trainer\.replicas is 3 and each would take up every job; set it to 1/,
  },
  {
    on: 'kind',
    set: ['tls.mode="secrets"'],
    says: /tls\.mode is secrets and tls\.secrets\.reward names none; name a TLS Secret with tls\.crt, tls\.key and ca\.crt/,
  },
  {
    on: 'kind',
    set: ['tls.mode="insecure-plaintext"'],
    says: /auth\.mode is certificates and clients show none; set tls\.mode to cert-manager/,
  },
  {
    on: 'kind',
    set: ['tls.mutual=false'],
    says: /auth\.mode is certificates and clients show none/,
  },
  {
    on: 'kind',
    set: ['auth.mode="tokens"'],
    says: /auth\.mode is tokens; name the Secrets in auth\.callersSecret and auth\.tokensSecret/,
  },
  {
    on: 'kind',
    set: ['auth.jwt.jwks="https://issuer.example/keys"'],
    says: /set auth\.jwt\.issuer and auth\.jwt\.audience/,
  },
  {
    on: 'kind',
    set: ['nats.url="nats://elsewhere:4222"'],
    says: /nats\.url is set and nats\.builtin\.enabled is true/,
  },
  {
    on: 'kind',
    set: ['nats.builtin.enabled=false'],
    says: /set nats\.url to the address of a NATS with JetStream/,
  },
  {
    on: 'kind',
    set: ['nats.streamReplicas=3'],
    says: /nats\.streamReplicas is 3 and there are 1 brokers; set nats\.builtin\.replicas/,
  },
  {
    on: 'kind',
    set: ['nats.usersSecret=""'],
    says: /nats\.usersSecret is empty and everybody could read and write every queue/,
  },
  {
    on: 'kind',
    set: ['nats.builtin.enabled=false', 'nats.url="nats://elsewhere:4222"'],
    says: /network policies do not let anybody out to it; set networkPolicy\.nats/,
  },
  { on: 'kind', set: ['postgresql.builtin.enabled=false'], says: /set postgresql\.url to postgres:/ },
  {
    on: 'many-gpu-nodes',
    set: ['networkPolicy.postgresql=[]'],
    says: /do not let the loop out to it; set networkPolicy\.postgresql/,
  },
  {
    on: 'kind',
    set: ['postgresql.passwordSecret.name=""'],
    says: /passwordSecret\.name is empty; name a Secret/,
  },
  {
    on: 'kind',
    set: ['artifacts.volume.enabled=false'],
    says: /nowhere to keep artifacts; set artifacts\.url/,
  },
  { on: 'kind', set: ['artifacts.url="s3://a/b"'], says: /there is one store, so leave one of them out/ },
  {
    on: 'kind',
    set: ['components.referee.enabled=false'],
    says: /there is no judge; set components\.judge\.judgesConfigMap/,
  },
  {
    on: 'kind',
    set: ['default.terminationGracePeriodSeconds=20'],
    says: /a service may take 20 s to end; set it to 25 or more/,
  },
  {
    on: 'kind',
    set: ['components.loop.serviceAccount.create=false'],
    says: /set components\.loop\.serviceAccount\.name to one that exists/,
  },
  {
    on: 'kind',
    set: ['kueue={"createQueues":true,"quota":{"cpu":1}}'],
    says: /which Kueue does not see; set training\.backend to kubernetes-job or kubeflow/,
  },
  { on: 'many-gpu-nodes', set: ['kueue.quota=null'], says: /kueue\.quota is empty; say what jobs may use/ },
  {
    on: 'many-gpu-nodes',
    set: ['training.job.image.variant="cpu"'],
    says: /training\.job\.gpu\.count is 1 and its image is the one for CPU/,
  },
  {
    on: 'many-gpu-nodes',
    set: ['training.job.gpu.count=0'],
    says: /training\.job\.image\.variant is cuda and no GPU is asked for; set training\.job\.gpu\.count to 1/,
  },
  {
    on: 'many-gpu-nodes',
    set: ['training.job.nodes=2'],
    says: /training\.job\.nodes is 2 and services\/trainer\/job\.ts trains a job in one pod; set it to 1/,
  },
  {
    on: 'many-gpu-nodes',
    set: ['components.trainer={"image":{"variant":"cuda"},"gpu":{"count":1}}'],
    says: /components\.trainer\.gpu\.count is 1 and training runs in pods of its own; set it to 0/,
  },
  {
    on: 'many-gpu-nodes',
    set: ['kueue.createQueues=false', 'training.priorityClass="urgent"'],
    says: /training\.priorityClass is set and jobs go past Kueue; set training\.queueName/,
  },
  {
    on: 'many-gpu-nodes',
    set: ['training.backend="kubeflow"', 'training.job.runtimeClassName="nvidia"'],
    says: /training\.job\.runtimeClassName is set and a TrainJob cannot carry it; set it in the ClusterTrainingRuntime torch-distributed/,
  },
  {
    on: 'many-gpu-nodes',
    set: ['training.backend="kubeflow"', `training.job.models.preload=[{"sha256":"${'0'.repeat(64)}"}]`],
    says: /a TrainJob carries no init container; use training\.job\.models\.existingClaim/,
  },
  {
    on: 'many-gpu-nodes',
    set: ['fullnameOverride="1.video"'],
    says: /names of training jobs begin with a letter and have no dots; set fullnameOverride/,
  },
  {
    on: 'many-gpu-nodes',
    set: ['training.job.serviceAccount.create=false'],
    says: /set training\.job\.serviceAccount\.name to one that exists/,
  },
  {
    on: 'kind',
    set: ['dashboard={"enabled":true,"keySecret":{"name":""}}'],
    says: /nothing signs its links; set dashboard\.keySecret\.name to a Secret with 32 random bytes/,
  },
  {
    on: 'kind',
    set: ['dashboard={"enabled":true,"ingress":{"enabled":true}}'],
    says: /set dashboard\.ingress\.host to the name that browsers call\n.*set networkPolicy\.dashboard to where the ingress controller is/,
  },
  {
    on: 'kind',
    set: ['dashboard.ingress.enabled=true'],
    says: /there is no dashboard; set dashboard\.enabled to true/,
  },
  {
    on: 'kind',
    set: ['training.backend="kubernetes-job"'],
    says: /training jobs run on other nodes and artifacts\.volume\.accessMode is ReadWriteOnce/,
  },
];

describe('values that cannot work fail the render with the fix', { concurrency: 2 }, () => {
  for (const { on, set, says } of table) {
    test(`${on}: ${set.join(' ')}`, async () => {
      await assert.rejects(render({ values: [exampleFile(on)], set }), says);
    });
  }
});
