import { join } from 'node:path';
import { chartFolder } from './helm.ts';

/** The values files that come with the chart, each rendered to tests/rendered. */
export const examples = ['kind', 'one-gpu-node', 'many-gpu-nodes'] as const;

export const exampleFile = (name: string): string => join(chartFolder, 'examples', `${name}.yaml`);
export const renderedFile = (name: string): string =>
  join(import.meta.dirname, '../tests/rendered', `${name}.yaml`);

/** Other choices that the tests render as well: what they set over an example. */
export const variants: readonly {
  readonly name: string;
  readonly on: string;
  readonly set: readonly string[];
}[] = [
  {
    name: 'tokens, no mutual TLS',
    on: 'kind',
    set: [
      'tls.mutual=false',
      'auth={"mode":"tokens","callersSecret":"plumb-callers","tokensSecret":"plumb-tokens","callsPerSecond":50,"itemsPerHour":100000}',
    ],
  },
  {
    name: 'plain text and no control of access: a service mesh',
    on: 'kind',
    set: [
      'tls.mode="insecure-plaintext"',
      'auth.mode="insecure-none"',
      'nats.usersSecret=""',
      'networkPolicy.enabled=false',
    ],
  },
  {
    name: 'given certificates, JSON Web Tokens, another authority for HTTPS',
    on: 'kind',
    set: [
      'tls.mode="secrets"',
      'tls.secrets={"generator":"g","reward":"r","judge":"j","trainer":"t","loop":"l","client":"c","nats":"n","postgresql":"p"}',
      'auth.jwt={"jwks":"https://issuer.example/keys","issuer":"https://issuer.example","audience":"plumb"}',
      'trustedCaSecret={"name":"company-ca"}',
    ],
  },
  {
    name: 'NATS elsewhere with credentials, KEDA on its monitoring',
    on: 'one-gpu-node',
    set: [
      'nats={"builtin":{"enabled":false},"url":"tls://nats.messaging.svc:4222","monitoringEndpoint":"nats.messaging.svc:8222","credentialsSecret":"plumb-nats-creds","usersSecret":"","caSecret":{"name":"nats-ca"},"streamReplicas":3}',
      'networkPolicy.nats=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"messaging"}}}]',
    ],
  },
  {
    name: 'hpa everywhere, names of its own, roles of the cloud, IPv6',
    on: 'one-gpu-node',
    set: [
      'fullnameOverride="video-feedback"',
      'listenHost="[::]"',
      'imagePullSecrets=[{"name":"registry"}]',
      'components.generator.autoscaling.kind="hpa"',
      'components.generator.autoscaling.minReplicas=1',
      'components.reward.autoscaling.kind="hpa"',
      'components.reward.autoscaling.behavior={"scaleDown":{"stabilizationWindowSeconds":600}}',
      'components.judge.autoscaling.kind="hpa"',
      'default.serviceAccount.annotations={"eks.amazonaws.com/role-arn":"arn:aws:iam::1:role/plumb"}',
      'artifacts.s3.credentialsSecret=""',
    ],
  },
  {
    name: 'the dashboard behind an ingress',
    on: 'one-gpu-node',
    set: [
      'dashboard={"enabled":true,"ingress":{"enabled":true,"className":"nginx","host":"plumb.example","tlsSecret":"plumb-dashboard","annotations":{"cert-manager.io/cluster-issuer":"public"}}}',
      'networkPolicy.dashboard=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ingress-nginx"}}}]',
    ],
  },
  {
    name: 'TrainJobs of Kubeflow',
    on: 'many-gpu-nodes',
    set: ['training.backend="kubeflow"', 'migrations.hook=false', 'feedbackRuns.enabled=false'],
  },
];
