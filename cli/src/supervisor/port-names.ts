/** Everything of the embedded system that listens on a port. */
export const portNames = [
  'nats',
  'nats-monitor',
  'referee',
  'generator',
  'reward',
  'judge',
  'trainer',
  'loop',
  'web',
] as const;
export type PortName = (typeof portNames)[number];
