import { randomUUID } from 'node:crypto';

/** An object as the API has it: JSON. */
export interface StoredObject {
  apiVersion?: string;
  kind?: string;
  metadata: {
    name: string;
    namespace?: string;
    uid: string;
    resourceVersion: string;
    generation: number;
    creationTimestamp: string;
    deletionTimestamp?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    finalizers?: string[];
    ownerReferences?: { uid: string }[];
  };
  // oxlint-disable-next-line typescript/no-explicit-any -- any object of any kind
  [field: string]: any;
}

export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly object: StoredObject;
  readonly version: number;
}

/** A refusal as the API words it. */
export class Refusal extends Error {
  readonly code: number;
  readonly reason: string;

  constructor(code: number, reason: string, message: string) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

/**
 * The objects of all kinds with their history, with the rules of the API server: one counter of revisions, optimistic
 * concurrency, generations, finalizers, and owners that take what they own along.
 */
export class ObjectStore {
  readonly #collections = new Map<string, Map<string, StoredObject>>();
  readonly #history = new Map<string, WatchEvent[]>();
  readonly #listeners = new Set<(collection: string, event: WatchEvent) => void>();
  #version = 100;
  /** Watches that begin before it get 410. */
  #compacted = 0;

  get version(): number {
    return this.#version;
  }

  list(collection: string): StoredObject[] {
    return [...(this.#collections.get(collection)?.values() ?? [])];
  }

  get(collection: string, name: string): StoredObject {
    const found = this.#collections.get(collection)?.get(name);
    if (found === undefined) throw new Refusal(404, 'NotFound', `${collection} "${name}" not found`);
    return found;
  }

  create(collection: string, given: Partial<StoredObject>): StoredObject {
    const name = given.metadata?.name ?? '';
    if (!/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(name)) {
      throw new Refusal(422, 'Invalid', `metadata.name: Invalid value: "${name}"`);
    }
    if (this.#collections.get(collection)?.has(name) === true) {
      throw new Refusal(409, 'AlreadyExists', `${collection} "${name}" already exists`);
    }
    const object: StoredObject = {
      ...structuredClone(given),
      metadata: {
        ...structuredClone(given.metadata),
        name,
        uid: randomUUID(),
        resourceVersion: '',
        generation: 1,
        creationTimestamp: new Date().toISOString(),
      },
    };
    return this.#write(collection, 'ADDED', object);
  }

  /**
   * Replaces an object.
   * @param part what may change: the object without its status, its status alone, or both
   */
  replace(collection: string, given: StoredObject, part: 'main' | 'status' | 'all'): StoredObject {
    const standing = this.get(collection, given.metadata.name);
    const wanted = given.metadata.resourceVersion;
    if (wanted !== undefined && wanted !== '' && wanted !== standing.metadata.resourceVersion) {
      throw new Refusal(
        409,
        'Conflict',
        `the object has been modified; please apply your changes to the latest version`,
      );
    }
    if (given.metadata.uid !== undefined && given.metadata.uid !== standing.metadata.uid) {
      throw new Refusal(409, 'Conflict', `uid mismatch: ${given.metadata.uid} and ${standing.metadata.uid}`);
    }
    const object: StoredObject =
      part === 'status'
        ? { ...structuredClone(standing), status: structuredClone(given['status']) }
        : {
            ...structuredClone(given),
            ...(part === 'main' && standing['status'] !== undefined
              ? { status: structuredClone(standing['status']) }
              : {}),
            metadata: {
              ...structuredClone(given.metadata),
              uid: standing.metadata.uid,
              creationTimestamp: standing.metadata.creationTimestamp,
              generation:
                standing.metadata.generation +
                (JSON.stringify(given['spec']) === JSON.stringify(standing['spec']) ? 0 : 1),
              ...(standing.metadata.deletionTimestamp === undefined
                ? {}
                : { deletionTimestamp: standing.metadata.deletionTimestamp }),
            },
          };
    if (object.metadata.deletionTimestamp !== undefined && (object.metadata.finalizers ?? []).length === 0) {
      this.#erase(collection, object);
      return object;
    }
    return this.#write(collection, 'MODIFIED', object);
  }

  /** Deletes an object, or marks it while it has finalizers; takes what it owns along. */
  remove(
    collection: string,
    name: string,
    preconditions: { readonly uid?: string; readonly resourceVersion?: string } = {},
  ): StoredObject {
    const standing = this.get(collection, name);
    const { uid, resourceVersion } = standing.metadata;
    if (preconditions.uid !== undefined && preconditions.uid !== uid) {
      throw new Refusal(
        409,
        'Conflict',
        `the UID in the precondition (${preconditions.uid}) does not match (${uid})`,
      );
    }
    if (preconditions.resourceVersion !== undefined && preconditions.resourceVersion !== resourceVersion) {
      throw new Refusal(409, 'Conflict', 'the ResourceVersion in the precondition does not match');
    }
    if ((standing.metadata.finalizers ?? []).length > 0) {
      if (standing.metadata.deletionTimestamp !== undefined) return standing;
      return this.#write(collection, 'MODIFIED', {
        ...structuredClone(standing),
        metadata: { ...structuredClone(standing.metadata), deletionTimestamp: new Date().toISOString() },
      });
    }
    this.#erase(collection, standing);
    return standing;
  }

  /** Events after a revision. Undefined where the server no longer has them: 410. */
  since(collection: string, version: number): WatchEvent[] | undefined {
    if (version < this.#compacted) return undefined;
    return (this.#history.get(collection) ?? []).filter((event) => event.version > version);
  }

  /** Forgets the history, as etcd does after five minutes. */
  compact(): void {
    this.#history.clear();
    this.#version += 1;
    this.#compacted = this.#version;
  }

  /** @returns what ends it */
  listen(listener: (collection: string, event: WatchEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #erase(collection: string, object: StoredObject): void {
    this.#write(collection, 'DELETED', structuredClone(object));
    this.#collections.get(collection)?.delete(object.metadata.name);
    for (const [other, objects] of this.#collections) {
      for (const owned of objects.values()) {
        if (owned.metadata.ownerReferences?.some(({ uid }) => uid === object.metadata.uid) === true) {
          this.remove(other, owned.metadata.name);
        }
      }
    }
  }

  #write(collection: string, type: WatchEvent['type'], object: StoredObject): StoredObject {
    this.#version += 1;
    object.metadata.resourceVersion = String(this.#version);
    const objects = this.#collections.get(collection) ?? new Map<string, StoredObject>();
    this.#collections.set(collection, objects);
    if (type !== 'DELETED') objects.set(object.metadata.name, object);
    const event: WatchEvent = { type, object: structuredClone(object), version: this.#version };
    const history = this.#history.get(collection) ?? [];
    history.push(event);
    this.#history.set(collection, history);
    for (const listener of this.#listeners) listener(collection, event);
    return structuredClone(object);
  }
}
