import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { writeFile } from 'node:fs/promises';
import { createAuthority } from '@plumb/kit/testing/certificates';
import { ObjectStore, Refusal } from './object-store.ts';
import type { StoredObject, WatchEvent } from './object-store.ts';

/** A kind that the server serves. */
export interface ServedKind {
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
  /** Whether the status has a subresource of its own, which then alone may change it. */
  readonly status: boolean;
  /** What is wrong with an object, in words; undefined is nothing. */
  readonly invalid?: (object: unknown) => string | undefined;
}

/** What was asked of the server. */
export interface RequestRecord {
  readonly verb: string;
  readonly path: string;
  readonly user: string;
  /** Where a watch began. */
  readonly resourceVersion: string;
}

export interface KubernetesApi {
  readonly url: string;
  readonly store: ObjectStore;
  readonly requests: readonly RequestRecord[];
  /** Watches that are open. */
  readonly watches: number;
  /** Writes a kubeconfig for it. @param user who calls with it; `test` unless given */
  writeKubeconfig(path: string, user?: string): Promise<void>;
  /** Cuts off every open connection; the next one is answered. */
  disconnect(): void;
  /** Tells every watch that asked for bookmarks where it is. */
  bookmark(): void;
  /** Nobody answers any more, until `comeBack`. */
  goAway(): Promise<void>;
  comeBack(): Promise<void>;
  /** These users' calls break off without an answer, as behind a broken network; their watches do so at once. */
  cutOff(...users: string[]): void;
  /** Calls that broke off. */
  readonly broken: number;
  /** Answers 403 to what it says true of. */
  forbid: ((verb: string, path: string) => boolean) | undefined;
  stop(): Promise<void>;
}

/** Whoever does not show such a token gets 401. */
const tokenOf = (user: string): string => `a-token-of-${user}`;
const tokenPattern = /^Bearer a-token-of-(?<user>[a-z-]+)$/;

/** The kinds that Plumb uses, besides its own. */
export const commonKinds: readonly ServedKind[] = [
  { group: '', version: 'v1', plural: 'pods', kind: 'Pod', status: true },
  { group: 'batch', version: 'v1', plural: 'jobs', kind: 'Job', status: true },
  { group: 'apps', version: 'v1', plural: 'deployments', kind: 'Deployment', status: true },
  { group: 'coordination.k8s.io', version: 'v1', plural: 'leases', kind: 'Lease', status: false },
  { group: 'events.k8s.io', version: 'v1', plural: 'events', kind: 'Event', status: false },
  { group: 'kueue.x-k8s.io', version: 'v1beta2', plural: 'workloads', kind: 'Workload', status: true },
];

/** Checks objects by a class of the package kubernetes-models. */
export function checkedBy(
  // oxlint-disable-next-line typescript/no-explicit-any -- any object of any kind
  Model: new (object: any) => { validate(): void },
): NonNullable<ServedKind['invalid']> {
  return (object) => {
    try {
      new Model(object).validate();
      return undefined;
    } catch (error) {
      return String(error);
    }
  };
}

/**
 * An API server over HTTPS with the parts of the Kubernetes API that the client and Plumb use: typed collections with list,
 * watch, bookmarks, revisions, conflicts and 410, discovery, the status subresource, preconditions, finalizers and owners.
 */
export async function startKubernetesApi(kinds: readonly ServedKind[] = commonKinds): Promise<KubernetesApi> {
  const authority = await createAuthority('kubernetes');
  const own = await authority.issue([{ type: 'ip', value: '127.0.0.1' }]);
  const store = new ObjectStore();
  const requests: RequestRecord[] = [];
  const sockets = new Set<Duplex>();
  const watches = new Set<{
    readonly user: string;
    readonly socket: Duplex;
    readonly bookmark: () => void;
  }>();
  let unheard: ReadonlySet<string> = new Set();
  let broken = 0;
  let server: Server | undefined;
  let port = 0;

  const api: KubernetesApi = {
    get url() {
      return `https://127.0.0.1:${port}`;
    },
    store,
    requests,
    get watches() {
      return watches.size;
    },
    forbid: undefined,
    get broken() {
      return broken;
    },
    cutOff: (...users) => {
      unheard = new Set(users);
      for (const { user, socket } of watches) if (unheard.has(user)) socket.destroy();
    },
    writeKubeconfig: async (path, user = 'test') => {
      await writeFile(
        path,
        JSON.stringify({
          apiVersion: 'v1',
          kind: 'Config',
          clusters: [
            {
              name: 'test',
              cluster: {
                server: api.url,
                'certificate-authority-data': Buffer.from(authority.certificate).toString('base64'),
              },
            },
          ],
          users: [{ name: user, user: { token: tokenOf(user) } }],
          contexts: [{ name: 'test', context: { cluster: 'test', user, namespace: 'plumb' } }],
          'current-context': 'test',
        }),
      );
    },
    disconnect: () => {
      for (const socket of sockets) socket.destroy();
    },
    bookmark: () => {
      for (const watch of watches) watch.bookmark();
    },
    goAway: async () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      server?.close(() => {
        resolve();
      });
      api.disconnect();
      await promise;
    },
    comeBack: listen,
    stop: async () => {
      await api.goAway();
    },
  };

  async function listen(): Promise<void> {
    server = createServer({ cert: own.certificate, key: own.key }, (request, response) => {
      handle(request, response).catch((thrown: unknown) => {
        refuse(response, thrown);
      });
    });
    server.on('connection', (socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
    });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
    await promise;
    ({ port } = server.address() as AddressInfo);
  }

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', api.url);
    const method = request.method ?? 'GET';
    const watching = url.searchParams.get('watch') === 'true';
    const verb = watching ? 'WATCH' : method;
    const user = tokenPattern.exec(request.headers.authorization ?? '')?.groups?.['user'];
    if (user === undefined) throw new Refusal(401, 'Unauthorized', 'Unauthorized');
    if (unheard.has(user)) {
      broken += 1;
      request.socket.destroy();
      return;
    }
    const resourceVersion = url.searchParams.get('resourceVersion') ?? '';
    requests.push({ verb, path: url.pathname, user, resourceVersion });
    if (api.forbid?.(verb, url.pathname) === true) {
      throw new Refusal(403, 'Forbidden', `User "${user}" cannot ${verb} ${url.pathname}`);
    }
    const discovery = discoveryOf(url.pathname);
    if (discovery !== undefined) {
      answer(response, 200, discovery);
      return;
    }
    const { kind, collection, name, status } = place(url.pathname);
    const typed = (object: StoredObject): StoredObject => ({
      apiVersion: apiVersionOf(kind),
      kind: kind.kind,
      ...object,
    });
    if (watching) {
      watch(request, response, url, collection, typed, user);
      return;
    }
    const body = (await bodyOf(request)) as Partial<StoredObject> | undefined;
    const check = (object: Partial<StoredObject>): void => {
      const wrong = kind.invalid?.({ apiVersion: apiVersionOf(kind), kind: kind.kind, ...object });
      if (wrong !== undefined) throw new Refusal(422, 'Invalid', `${kind.kind} is invalid: ${wrong}`);
    };
    if (name === undefined) {
      if (method === 'GET') {
        const version = String(store.version);
        answer(response, 200, {
          apiVersion: apiVersionOf(kind),
          kind: `${kind.kind}List`,
          metadata: { resourceVersion: version },
          items: store.list(collection).filter(selected(url)).map(typed),
        });
        return;
      }
      if (method !== 'POST' || body === undefined) throw new Refusal(405, 'MethodNotAllowed', method);
      check(body);
      const { status: _status, ...rest } = body;
      answer(response, 201, typed(store.create(collection, kind.status ? rest : body)));
      return;
    }
    const part = status ? 'status' : kind.status ? 'main' : 'all';
    if (method === 'GET') answer(response, 200, typed(store.get(collection, name)));
    else if (method === 'PUT' && body !== undefined) {
      check(body);
      const object = { ...body, metadata: { ...body.metadata, name } } as StoredObject;
      answer(response, 200, typed(store.replace(collection, object, part)));
    } else if (method === 'PATCH') {
      if (request.headers['content-type'] !== 'application/merge-patch+json') {
        throw new Refusal(415, 'UnsupportedMediaType', 'only application/merge-patch+json');
      }
      const merged = mergePatch(store.get(collection, name), body) as StoredObject;
      check(merged);
      answer(response, 200, typed(store.replace(collection, merged, part)));
    } else if (method === 'DELETE') {
      const { preconditions } = (body ?? {}) as { preconditions?: { uid?: string } };
      answer(response, 200, typed(store.remove(collection, name, preconditions)));
    } else throw new Refusal(405, 'MethodNotAllowed', method);
  }

  function place(path: string): {
    readonly kind: ServedKind;
    readonly collection: string;
    readonly name: string | undefined;
    readonly status: boolean;
  } {
    const match =
      /^\/(?:api\/(?<core>v1)|apis\/(?<group>[^/]+)\/(?<version>[^/]+))\/namespaces\/(?<namespace>[^/]+)\/(?<plural>[^/]+)(?:\/(?<name>[^/]+)(?<status>\/status)?)?$/.exec(
        path,
      );
    const { core, group = '', version = core, namespace, plural, name, status } = match?.groups ?? {};
    const kind = kinds.find(
      (known) => known.group === group && known.version === version && known.plural === plural,
    );
    if (kind === undefined)
      throw new Refusal(404, 'NotFound', 'the server could not find the requested resource');
    return { kind, collection: `${namespace}/${plural}`, name, status: status !== undefined };
  }

  function discoveryOf(path: string): unknown {
    if (path === '/version' || path === '/version/') {
      return { major: '1', minor: '35', gitVersion: 'v1.35.0', platform: 'test' };
    }
    if (path !== '/apis' && path !== '/apis/') return undefined;
    const groups = [...new Set(kinds.map(({ group }) => group))].filter((group) => group !== '');
    return {
      kind: 'APIGroupList',
      apiVersion: 'v1',
      groups: groups.map((name) => {
        const versions = [
          ...new Set(kinds.filter(({ group }) => group === name).map(({ version }) => version)),
        ].map((version) => ({ groupVersion: `${name}/${version}`, version }));
        return { name, versions, preferredVersion: versions[0] };
      }),
    };
  }

  function watch(
    request: IncomingMessage,
    response: ServerResponse,
    url: URL,
    collection: string,
    typed: (object: StoredObject) => StoredObject,
    user: string,
  ): void {
    const from = Number(url.searchParams.get('resourceVersion') ?? '0');
    const past = store.since(collection, from);
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    const send = (type: string, object: unknown): void => {
      response.write(`${JSON.stringify({ type, object })}\n`);
    };
    if (past === undefined) {
      send('ERROR', statusOf(new Refusal(410, 'Expired', `too old resource version: ${from}`)));
      response.end();
      return;
    }
    const wanted = selected(url);
    const forward = ({ type, object }: WatchEvent): void => {
      if (wanted(object)) send(type, typed(object));
    };
    for (const event of past) forward(event);
    const stopListening = store.listen((of, event) => {
      if (of === collection) forward(event);
    });
    const entry = {
      user,
      socket: request.socket,
      bookmark: (): void => {
        if (url.searchParams.get('allowWatchBookmarks') !== 'true') return;
        send('BOOKMARK', { metadata: { resourceVersion: String(store.version) } });
      },
    };
    watches.add(entry);
    request.socket.on('close', () => {
      stopListening();
      watches.delete(entry);
    });
  }

  await listen();
  return api;
}

function apiVersionOf({ group, version }: ServedKind): string {
  return group === '' ? version : `${group}/${version}`;
}

/** Equality selectors, which are all that Plumb uses. */
function selected(url: URL): (object: StoredObject) => boolean {
  const terms = (url.searchParams.get('labelSelector') ?? '').split(',').filter(Boolean);
  const pairs = terms.map((term) => term.split('='));
  return ({ metadata }) => pairs.every(([key = '', value]) => metadata.labels?.[key] === value);
}

/** RFC 7386. */
function mergePatch(target: unknown, patch: unknown): unknown {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) return patch;
  const result: Record<string, unknown> =
    typeof target === 'object' && target !== null && !Array.isArray(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = mergePatch(result[key], value);
  }
  return result;
}

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  const text = Buffer.concat(parts).toString('utf8');
  return text === '' ? undefined : (JSON.parse(text) as unknown);
}

function answer(response: ServerResponse, code: number, body: unknown): void {
  response.writeHead(code, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

function statusOf({ code, reason, message }: Refusal): unknown {
  return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', code, reason, message };
}

function refuse(response: ServerResponse, thrown: unknown): void {
  const refusal = thrown instanceof Refusal ? thrown : new Refusal(500, 'InternalError', String(thrown));
  if (response.headersSent) response.destroy();
  else answer(response, refusal.code, statusOf(refusal));
}
