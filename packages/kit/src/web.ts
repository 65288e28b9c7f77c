/** `@plumb/kit/web`: the HTTP side of a service that people look at, and the links that let them in. */
export { webService } from './web/connect-routes.ts';
export type { WebService } from './web/connect-routes.ts';
export { openLinks } from './web/links.ts';
export type { LinkGrant, Links } from './web/links.ts';
export { artifactPath, startWebServer } from './web/web-server.ts';
export type { WebServer, WebServerOptions } from './web/web-server.ts';
