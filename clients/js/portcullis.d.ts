/** The browser client of the portcullis gateway: a WebSocket whose token is renewed while the stream lives. */

/** Why a token is asked for: for a first stream, before the present one expires, or because the gateway refused the last one. */
export type Reason = 'open' | 'renew' | 'refused'

/** What a Close asks for: to come back with a new token, to come back later, or not at all. */
export type Verdict = 'token' | 'later' | 'no'

/** How a connection ended. */
export interface End {
  readonly code: number
  readonly reason: string
  readonly wasClean: boolean
}

export interface Options {
  /**
   * Gives a JWT. All sockets with the same options object share it: however many need one, it is called once. It may throw, and
   * is then called again after a while; an error whose name is `Unauthorized` ends that, because nobody is signed in. It has
   * 30 seconds, after which `signal` is aborted.
   */
  getToken(asked: { reason: Reason, signal: AbortSignal }): string | Promise<string>
  /** Where the token stands when a stream is opened; the route must take it there. `message`: nowhere, the page sends it. Default `query`. */
  carrier?: 'query' | 'ticket' | 'subprotocol' | 'message'
  /** The name in the query; default `access_token`, for tickets `ticket`. */
  name?: string
  /** Whether tokens are renewed on the live stream; default true. */
  renew?: boolean
  /** Whether the socket comes back by itself; default true for `PortcullisSocket`, false for a class made by `portcullis`. */
  reconnect?: boolean
  /** For renewals and tickets, as `fetch` has it; default `same-origin`. */
  credentials?: RequestCredentials
  /** How many seconds before expiry `expiring` is told; default 30. */
  notice?: number
  /** Judges the end of a connection instead of the table of close codes; undefined leaves it to the table. */
  again?(end: End): Verdict | undefined
  /** The class that connects; default the browser's. */
  WebSocket?: new (url: string | URL, protocols?: string | string[]) => WebSocket
  /** Handlers that each socket begins with, for libraries that hide their socket. */
  onopen?: Handler<Event>
  onmessage?: Handler<MessageEvent>
  onerror?: Handler<Event>
  onclose?: Handler<CloseEvent>
  onexpiring?: Handler<ExpiringEvent>
  onrenewed?: Handler<Event>
  onrefused?: Handler<RefusedEvent>
  onreconnecting?: Handler<ReconnectingEvent>
}

type Handler<E> = (this: PortcullisSocket, event: E) => unknown

/** The token will not be renewed in time, as it looks: nobody is signed in, the gateway refuses, or `getToken` fails. */
export interface ExpiringEvent extends Event {
  readonly secondsLeft: number
}

/** A renewal was refused for good; the stream keeps its token until that expires. */
export interface RefusedEvent extends Event {
  /** The gateway's status; undefined if `getToken` threw `Unauthorized`. */
  readonly status?: number
  /** The gateway's public reason, or `unauthorized`. */
  readonly reason?: string
}

/** The connection has ended, and the next one comes after `delay` milliseconds. */
export interface ReconnectingEvent extends Event, End {
  readonly delay: number
  /** What `getToken`, or the request for a ticket, failed with. */
  readonly cause: unknown
}

export interface PortcullisEventMap {
  /** Also each time that the socket has come back. */
  open: Event
  message: MessageEvent
  error: Event & { readonly cause: unknown }
  /** The last event: the socket will not come back. */
  close: CloseEvent
  expiring: ExpiringEvent
  /** The token of the live stream was replaced; `expiresIn` is the new one's. */
  renewed: Event
  refused: RefusedEvent
  reconnecting: ReconnectingEvent
}

/**
 * A `WebSocket` in all it does, and in what it throws. While it waits to come back it is `CONNECTING`, and `send` throws; after
 * the end `send` drops, and only `bufferedAmount` grows. What was sent and not yet delivered when a connection broke is lost.
 */
export class PortcullisSocket extends EventTarget implements WebSocket {
  static readonly CONNECTING: 0
  static readonly OPEN: 1
  static readonly CLOSING: 2
  static readonly CLOSED: 3
  readonly CONNECTING: 0
  readonly OPEN: 1
  readonly CLOSING: 2
  readonly CLOSED: 3

  constructor(url: string | URL, protocols: string | string[] | undefined, options: Options)

  /** As it was given: without token, ticket or handle. */
  readonly url: string
  readonly readyState: 0 | 1 | 2 | 3
  readonly extensions: string
  /** The one of the page's subprotocols that was chosen, or nothing. */
  readonly protocol: string
  readonly bufferedAmount: number
  binaryType: BinaryType
  /** Seconds until the token of the present stream expires, as far as is known. */
  readonly expiresIn: number

  onopen: ((this: WebSocket, event: Event) => any) | null
  onmessage: ((this: WebSocket, event: MessageEvent) => any) | null
  onerror: ((this: WebSocket, event: Event) => any) | null
  onclose: ((this: WebSocket, event: CloseEvent) => any) | null
  onexpiring: Handler<ExpiringEvent> | null
  onrenewed: Handler<Event> | null
  onrefused: Handler<RefusedEvent> | null
  onreconnecting: Handler<ReconnectingEvent> | null

  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): void
  /** Ends the stream; the socket does not come back. */
  close(code?: number, reason?: string): void
  /** Renews the live stream at once with a new token, also after a refusal. */
  renew(): void

  addEventListener<K extends keyof PortcullisEventMap>(type: K, listener: (this: PortcullisSocket, event: PortcullisEventMap[K]) => any, options?: boolean | AddEventListenerOptions): void
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void
  removeEventListener<K extends keyof PortcullisEventMap>(type: K, listener: (this: PortcullisSocket, event: PortcullisEventMap[K]) => any, options?: boolean | EventListenerOptions): void
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | EventListenerOptions): void
}

/** To be thrown by `getToken`: there is no token to be had. */
export class Unauthorized extends Error {
  name: 'Unauthorized'
}

/** What the close codes of the gateway, of its presets and of RFC 6455 ask for. */
export function verdict(end: Pick<End, 'code' | 'reason'>): Verdict

/** A class as libraries take it, bound to options. */
export interface BoundSocket {
  new (url: string | URL, protocols?: string | string[]): PortcullisSocket
  readonly prototype: PortcullisSocket
  readonly CONNECTING: 0
  readonly OPEN: 1
  readonly CLOSING: 2
  readonly CLOSED: 3
  /** The present token, for libraries that send it in their first message. */
  token(): Promise<string>
}

/** Makes a class for libraries that construct their own socket, and that reconnect themselves. */
export default function portcullis(options: Options): BoundSocket
