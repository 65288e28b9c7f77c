import { Client, credentials } from '@grpc/grpc-js';

/** What `grpc.health.v1.Health/Check` of a server says of a name, over a connection of its own. */
export interface HealthChecks {
  of(name: string): Promise<string>;
  close(): void;
}

/** Asks the server at an address. */
export function healthAt(address: string): HealthChecks {
  const connection = new Client(address, credentials.createInsecure());
  return {
    async of(name) {
      const text = Buffer.from(name);
      const answer = await new Promise<Buffer>((resolve, reject) => {
        connection.makeUnaryRequest(
          '/grpc.health.v1.Health/Check',
          (sent: Buffer) => sent,
          (received: Buffer) => received,
          // HealthCheckRequest has one field, service = 1, and HealthCheckResponse one, status = 1.
          Buffer.concat([Buffer.from([0x0a, text.length]), text]),
          (error, value) => {
            if (value === undefined) reject(error ?? new Error('no answer'));
            else resolve(value);
          },
        );
      });
      return ['UNKNOWN', 'SERVING', 'NOT_SERVING', 'SERVICE_UNKNOWN'][answer[1] ?? 0] ?? '';
    },
    close: () => connection.close(),
  };
}
