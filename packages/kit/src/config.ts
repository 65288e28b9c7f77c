/** `@plumb/kit/config`: settings from the environment, checked once, in main. */
export { loadConfig, variableName } from './config/load-config.ts';
export type { Environment } from './config/load-config.ts';
export { listenAddress, serviceSettings, splitAddress } from './config/service-settings.ts';
