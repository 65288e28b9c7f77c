import { toBinary } from '@bufbuild/protobuf';
import type { DescFile, DescService } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import type { Server } from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { file_google_rpc_error_details } from '@plumb/proto/google/rpc/error_details_pb.js';

type Package = ConstructorParameters<typeof ReflectionService>[0];

/**
 * Serves reflection (v1 and v1alpha) for services. The descriptors are those of the generated code: what proto-loader makes
 * of a descriptor set has relative type names, which command lines cannot resolve.
 */
export function addReflection(server: Server, services: readonly DescService[]): void {
  const files = new Set<DescFile>();
  const visit = (file: DescFile): void => {
    if (files.has(file)) return;
    files.add(file);
    for (const dependency of file.dependencies) visit(dependency);
  };
  for (const { file } of services) visit(file);
  // The details of errors, which no service names.
  visit(file_google_rpc_error_details);
  const fileDescriptorProtos = [...files].map(({ proto }) =>
    Buffer.from(toBinary(FileDescriptorProtoSchema, proto)),
  );
  const names = services.map(({ typeName }) => typeName);
  const description = {
    contracts: { format: 'Protocol Buffer 3 DescriptorProto', type: {}, fileDescriptorProtos },
  };
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the library reads the files alone
  new ReflectionService(description as unknown as Package, { services: names }).addToServer(server);
}
