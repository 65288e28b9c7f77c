import { ServerInterceptingCall } from '@grpc/grpc-js';
import type { Metadata, ServerInterceptingCallInterface, ServerInterceptor } from '@grpc/grpc-js';
import { PlumbError } from '../errors/plumb-error.ts';
import { toWireError } from '../rpc/wire.ts';
import { counter } from '../telemetry/instruments.ts';
import { logger } from '../telemetry/logger.ts';
import { noCallers, parseCallers } from './callers-file.ts';
import { openTokenVerifier } from './json-web-token.ts';
import type { TokenVerification } from './json-web-token.ts';
import { createLimits } from './limits.ts';
import type { DefaultLimits, Limits } from './limits.ts';
import type { Caller } from './roles.ts';
import { rpcRule } from './rpc-access.ts';
import type { RpcRule } from './rpc-access.ts';
import { watchFiles } from './watched-files.ts';

/** Where callers and their rights come from. At least one of the two. */
export interface AccessOptions {
  /** Path of the callers' file. */
  readonly callersFile?: string | undefined;
  readonly jwt?: TokenVerification | undefined;
  readonly limits?: DefaultLimits | undefined;
  /** Time between two looks at the files, 2 s by default. */
  readonly everyMs?: number | undefined;
}

/** What a call shows of who makes it. */
export interface Presented {
  /** Values of the authorization header. */
  readonly authorization: readonly (string | Buffer)[];
  /** Names of the client's certificate, which TLS has checked. */
  readonly certificateNames: readonly string[];
  /** Address of the other end, for the log. */
  readonly peer: string;
}

/** Finds out who calls and whether they may, whatever the call came over. */
export interface Doorkeeper {
  /** Who calls; undefined for nobody that is known. */
  identify(presented: Presented): Promise<Caller | undefined>;
  /** Lets a call in by its path. @throws PlumbError UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED; the log has it too */
  admit(path: string, presented: Presented): Promise<Admission>;
}

/** The control of access to a server. */
export interface Access extends Doorkeeper {
  /** Stands before every call of the server. */
  readonly interceptor: ServerInterceptor;
  /** Looks at the files now. */
  refresh(): Promise<void>;
  close(): void;
}

/** What a call was admitted with. */
export interface Admission {
  /** Name of the caller. */
  readonly caller: string;
  /** The label session that the caller is confined to. */
  readonly session: string | undefined;
  /** Whether the caller's roles let it make a call, by its path. */
  allows(path: string): boolean;
  /** Counts the items of a request message. @throws PlumbError RESOURCE_EXHAUSTED */
  spend(request: unknown): void;
}

// A handler gets the very metadata object that the interceptor passed on, and nobody else can put one in here.
const admissions = new WeakMap<Metadata, Admission>();

/** How a call was admitted; undefined where access is not controlled. */
export function admissionOf(metadata: Metadata): Admission | undefined {
  return admissions.get(metadata);
}

const refusals = counter('plumb.access', 'plumb.access.refusals', {
  description: 'Calls that were refused before they reached a handler',
});

/**
 * Opens the control of access: who calls is told by a bearer token or by the client's certificate, what it may call by its
 * roles, and how much by its limits. It answers before a request is read, with the same words whatever was wrong.
 *
 * @throws PlumbError CONFIGURATION_INVALID when a file cannot be used
 */
export async function openAccess(options: AccessOptions): Promise<Access> {
  const { callersFile, jwt, everyMs } = options;
  const callers =
    callersFile === undefined
      ? undefined
      : await watchFiles({
          what: "the callers' file",
          files: [{ path: callersFile, variable: 'PLUMB_AUTH_CALLERS_FILE' }],
          parse: ([bytes]) => (bytes === undefined ? noCallers : parseCallers(bytes)),
          ...(everyMs === undefined ? {} : { everyMs }),
        });
  const tokens = jwt === undefined ? undefined : await openTokenVerifier({ everyMs, ...jwt });
  const doorkeeper = createDoorkeeper(
    async ({ authorization, certificateNames }) => {
      const known = callers?.current ?? noCallers;
      if (authorization.length === 0) return known.byCertificate(certificateNames);
      const token = bearerToken(authorization);
      if (token === undefined) return undefined;
      return known.byToken(token) ?? (await tokens?.verify(token));
    },
    createLimits(options.limits ?? {}),
  );
  return {
    ...doorkeeper,
    interceptor: (method, call) => {
      if (isOpen(method.path)) return new ServerInterceptingCall(call);
      const decide = async (metadata: Metadata, proceed: (metadata: Metadata) => void): Promise<void> => {
        const presented = {
          authorization: metadata.get('authorization'),
          certificateNames: certificateNames(call),
          peer: call.getPeer(),
        };
        // Nobody behind the door needs it, and what is not there cannot be logged.
        metadata.remove('authorization');
        let admission: Admission;
        try {
          admission = await doorkeeper.admit(method.path, presented);
        } catch (thrown) {
          call.sendStatus(toWireError(PlumbError.from(thrown)));
          return;
        }
        admissions.set(metadata, admission);
        proceed(metadata);
      };
      return new ServerInterceptingCall(call, {
        start: (next) => {
          next({ onReceiveMetadata: (metadata, proceed) => void decide(metadata, proceed) });
        },
      });
    },
    refresh: async () => {
      await Promise.all([callers?.refresh(), tokens?.refresh()]);
    },
    close: () => {
      callers?.close();
      tokens?.close();
    },
  };
}

/** A doorkeeper over whatever tells callers apart. */
export function createDoorkeeper(identify: Doorkeeper['identify'], limits: Limits): Doorkeeper {
  const log = logger('access');
  return {
    identify,
    admit: async (path, presented) => {
      try {
        const caller = await identify(presented);
        if (caller === undefined) throw unauthenticated();
        const rule = rpcRule(path);
        if (!mayCall(caller, rule)) throw permissionDenied(caller);
        limits.call(caller);
        return {
          caller: caller.name,
          session: caller.session,
          allows: (other) => mayCall(caller, rpcRule(other)),
          spend: (request) => {
            limits.items(caller, rule?.items?.(request) ?? 0);
          },
        };
      } catch (thrown) {
        const error = PlumbError.from(thrown);
        refusals.add(1, { 'rpc.method': path.slice(1), 'rpc.response.status_code': error.code });
        log.info(
          { method: path, peer: presented.peer, code: error.code, caller: denied.get(error) },
          'a call was refused',
        );
        throw error;
      }
    },
  };
}

function mayCall({ roles }: Caller, rule: RpcRule | undefined): boolean {
  return roles.has('admin') || rule?.roles.some((role) => roles.has(role)) === true;
}

/** Probes need health without credentials; reflection is there only when it is switched on, and the contracts are public. */
function isOpen(path: string): boolean {
  return path.startsWith('/grpc.health.v1.Health/') || path.startsWith('/grpc.reflection.');
}

/** The token of an authorization header (RFC 6750). The length keeps somebody from having us hash megabytes. */
export function bearerToken(values: readonly (string | Buffer)[]): string | undefined {
  const [value, ...more] = values;
  if (typeof value !== 'string' || more.length > 0) return undefined;
  return /^Bearer ([\w.~+/=-]{1,8192})$/i.exec(value)?.[1];
}

/** DNS names and URIs of a client's certificate, which TLS has checked already. */
function certificateNames(call: ServerInterceptingCallInterface): string[] {
  const { subjectaltname } = call.getAuthContext().sslPeerCertificate ?? {};
  // A quoted name holds a comma or a quote, which no name of ours does.
  return (subjectaltname ?? '')
    .split(', ')
    .map((entry) => /^(?:DNS|URI):([^"]+)$/.exec(entry)?.[1])
    .filter((name) => name !== undefined);
}

function unauthenticated(): PlumbError {
  return new PlumbError({
    code: 'UNAUTHENTICATED',
    reason: 'CREDENTIALS_INVALID',
    message: 'this call needs valid credentials',
  });
}

// For the log alone.
const denied = new WeakMap<PlumbError, string>();

function permissionDenied(caller: Caller): PlumbError {
  const error = new PlumbError({
    code: 'PERMISSION_DENIED',
    reason: 'ACCESS_DENIED',
    message: 'this caller may not make this call',
  });
  denied.set(error, caller.name);
  return error;
}
