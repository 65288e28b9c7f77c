import { randomUUID } from 'node:crypto';
import { EventsV1Api, V1MicroTime } from '@kubernetes/client-node';
import { logger } from '@plumb/kit/telemetry';
import type { Cluster } from './cluster.ts';
import { fromKubernetes } from './errors.ts';

/** The object that an event is about. */
export interface InvolvedObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
}

export interface EventRecorder {
  /**
   * Writes an event, which `kubectl describe` shows. Never rejects: nothing waits for an event.
   * @param reason one word in CamelCase
   */
  record(about: InvolvedObject, type: 'Normal' | 'Warning', reason: string, note: string): Promise<void>;
}

/** Longest note of an event, in bytes. Source: k8s.io/api/events/v1. */
const maxNoteBytes = 1024;

/** @param controller who reports, for example plumb.dev/loop */
export function eventRecorder(cluster: Cluster, controller: string, instance: string): EventRecorder {
  const api = cluster.api(EventsV1Api);
  const log = logger('kubernetes');
  return {
    async record(about, type, reason, note) {
      try {
        await api.createNamespacedEvent({
          namespace: cluster.namespace,
          body: {
            metadata: { name: `${about.name.slice(0, 200)}.${randomUUID()}`, namespace: cluster.namespace },
            eventTime: new V1MicroTime(),
            reportingController: controller,
            reportingInstance: instance.slice(0, 128),
            action: reason,
            reason,
            type,
            note: Buffer.from(note)
              .subarray(0, maxNoteBytes)
              .toString('utf8')
              .replace(/\uFFFD$/, ''),
            regarding: { ...about, namespace: cluster.namespace },
          },
        });
      } catch (thrown) {
        log.warn({ error: fromKubernetes(thrown, `writing the event ${reason}`), about }, 'an event is lost');
      }
    },
  };
}
