/** The parts of the official client that services use; they import them from here and nowhere else. */
export {
  ApisApi,
  AppsV1Api,
  BatchV1Api,
  CoordinationV1Api,
  CoreV1Api,
  CustomObjectsApi,
  EventsV1Api,
  VersionApi,
} from '@kubernetes/client-node';
export type {
  V1Condition,
  V1Container,
  V1EnvVar,
  V1Job,
  V1JobSpec,
  V1Lease,
  V1ObjectMeta,
  V1OwnerReference,
  V1Pod,
  V1PodSpec,
  V1PodTemplateSpec,
} from '@kubernetes/client-node';
