// Prints every message, field, enum and call of k8s.io/cri-api's runtime.v1, one a line and sorted, for the contract test
// tests/contract/test_cri_descriptor.py:
//
//	message Mount
//	field Mount 3 readonly optional bool
//	enum MountPropagation 1 PROPAGATION_HOST_TO_CONTAINER
//	call RuntimeService Version VersionRequest VersionResponse
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	file := cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto
	var lines []string
	add := func(words ...any) {
		lines = append(lines, strings.TrimSuffix(fmt.Sprintln(words...), "\n"))
	}
	local := func(name protoreflect.FullName) string {
		return strings.TrimPrefix(string(name), string(file.Package())+".")
	}
	enums := func(all protoreflect.EnumDescriptors) {
		for i := range all.Len() {
			for j := range all.Get(i).Values().Len() {
				value := all.Get(i).Values().Get(j)
				add("enum", local(all.Get(i).FullName()), value.Number(), value.Name())
			}
		}
	}
	var messages func(all protoreflect.MessageDescriptors)
	messages = func(all protoreflect.MessageDescriptors) {
		for i := range all.Len() {
			message := all.Get(i)
			add("message", local(message.FullName()))
			for j := range message.Fields().Len() {
				field := message.Fields().Get(j)
				kind := field.Kind().String()
				switch {
				case field.Message() != nil:
					kind = local(field.Message().FullName())
				case field.Enum() != nil:
					kind = local(field.Enum().FullName())
				}
				add("field", local(message.FullName()), field.Number(), field.Name(), field.Cardinality(), kind)
			}
			enums(message.Enums())
			messages(message.Messages())
		}
	}
	messages(file.Messages())
	enums(file.Enums())
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		for j := range service.Methods().Len() {
			method := service.Methods().Get(j)
			output := local(method.Output().FullName())
			if method.IsStreamingServer() {
				output = "stream " + output
			}
			add("call", service.Name(), method.Name(), local(method.Input().FullName()), output)
		}
	}
	sort.Strings(lines)
	if _, err := os.Stdout.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
