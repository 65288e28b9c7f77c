import { create, createFileRegistry } from '@bufbuild/protobuf';
import type { GenService } from '@bufbuild/protobuf/codegenv2';
import {
  file_google_protobuf_wrappers,
  FileDescriptorProtoSchema,
  MethodOptions_IdempotencyLevel,
} from '@bufbuild/protobuf/wkt';
import type { StringValueSchema } from '@bufbuild/protobuf/wkt';

type Text = typeof StringValueSchema;

/** A service with a method of each kind, over google.protobuf.StringValue. */
export const EchoService = makeEchoService();

function makeEchoService(): GenService<{
  say: { methodKind: 'unary'; input: Text; output: Text };
  look: { methodKind: 'unary'; input: Text; output: Text };
  repeat: { methodKind: 'server_streaming'; input: Text; output: Text };
  join: { methodKind: 'client_streaming'; input: Text; output: Text };
  chat: { methodKind: 'bidi_streaming'; input: Text; output: Text };
}> {
  const inputType = '.google.protobuf.StringValue';
  const types = { inputType, outputType: inputType };
  const file = create(FileDescriptorProtoSchema, {
    name: 'plumb/kit/testing/echo.proto',
    package: 'plumb.kit.testing',
    syntax: 'proto3',
    dependency: ['google/protobuf/wrappers.proto'],
    service: [
      {
        name: 'EchoService',
        method: [
          { name: 'Say', ...types },
          {
            name: 'Look',
            ...types,
            options: { idempotencyLevel: MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS },
          },
          { name: 'Repeat', ...types, serverStreaming: true },
          { name: 'Join', ...types, clientStreaming: true },
          { name: 'Chat', ...types, clientStreaming: true, serverStreaming: true },
        ],
      },
    ],
  });
  const registry = createFileRegistry(file, () => file_google_protobuf_wrappers);
  const service = registry.getService('plumb.kit.testing.EchoService');
  if (service === undefined) throw new Error('the echo service is not in its own file');
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the type above says what the descriptor says
  return service as unknown as ReturnType<typeof makeEchoService>;
}
