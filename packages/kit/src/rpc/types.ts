import type {
  DescMessage,
  DescMethod,
  DescService,
  MessageInitShape,
  MessageShape,
} from '@bufbuild/protobuf';
import type { Metadata } from '@grpc/grpc-js';
import type { Logger } from '../telemetry/logger.ts';

/** What a handler knows of its call. */
export interface CallContext {
  /** Aborts when the caller gives up, its deadline passes or the connection breaks. Pass it on to everything awaited. */
  readonly signal: AbortSignal;
  /** When the caller stops waiting; undefined when it waits for ever. */
  readonly deadline: Date | undefined;
  readonly metadata: Metadata;
  readonly logger: Logger;
  /** `plumb.reward.v1.RewardService/Score` */
  readonly method: string;
  readonly peer: string;
  /** Name of the caller; undefined where access is not controlled. */
  readonly caller: string | undefined;
  /** The label session that the caller is confined to; undefined for callers that are not. */
  readonly session: string | undefined;
  /** Whether the caller may make a call, named as `method` is; true for all where access is not controlled. */
  readonly allows: (method: string) => boolean;
}

type Init<M extends DescMessage> = MessageInitShape<M>;
type Awaitable<T> = T | Promise<T>;

/** The handler of one method. Responses are init objects; `create` is called for them. */
export type Handler<M extends DescMethod> = M['methodKind'] extends 'unary'
  ? (request: MessageShape<M['input']>, call: CallContext) => Awaitable<Init<M['output']>>
  : M['methodKind'] extends 'server_streaming'
    ? (request: MessageShape<M['input']>, call: CallContext) => AsyncIterable<Init<M['output']>>
    : M['methodKind'] extends 'client_streaming'
      ? (requests: AsyncIterable<MessageShape<M['input']>>, call: CallContext) => Awaitable<Init<M['output']>>
      : (
          requests: AsyncIterable<MessageShape<M['input']>>,
          call: CallContext,
        ) => AsyncIterable<Init<M['output']>>;

/** One handler for each method of a service, by its local name. */
export type Implementation<S extends DescService> = {
  readonly [K in keyof S['method']]: Handler<S['method'][K]>;
};

/** Options of one call. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds from now. Unary and client-streaming calls have the client's default, streams of answers none. */
  readonly deadlineMs?: number | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Waits for the server to come up, up to the deadline, and does not fail at once with UNAVAILABLE. */
  readonly waitForReady?: boolean | undefined;
}

type Requests<M extends DescMethod> = AsyncIterable<Init<M['input']>> | Iterable<Init<M['input']>>;

/** The client's side of one method. Everything it throws is a PlumbError. */
export type ClientMethod<M extends DescMethod> = M['methodKind'] extends 'unary'
  ? (request: Init<M['input']>, options?: CallOptions) => Promise<MessageShape<M['output']>>
  : M['methodKind'] extends 'server_streaming'
    ? (request: Init<M['input']>, options?: CallOptions) => AsyncIterable<MessageShape<M['output']>>
    : M['methodKind'] extends 'client_streaming'
      ? (requests: Requests<M>, options?: CallOptions) => Promise<MessageShape<M['output']>>
      : (requests: Requests<M>, options?: CallOptions) => AsyncIterable<MessageShape<M['output']>>;

/** A client: one function for each method, and its connection. */
export type RpcClient<S extends DescService> = {
  readonly [K in keyof S['method']]: ClientMethod<S['method'][K]>;
} & {
  /** Waits until the server can be reached. @throws PlumbError UNAVAILABLE after `deadlineMs` (30 s by default) */
  ready(options?: {
    readonly deadlineMs?: number | undefined;
    readonly signal?: AbortSignal | undefined;
  }): Promise<void>;
  close(): void;
};
