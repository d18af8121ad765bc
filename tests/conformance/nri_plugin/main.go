// A plugin on the published stub of NRI, for tests/cri/test_nri_go.py: what a plugin of that library sends and understands is what
// orlopd understands and sends. And the printer of the published interface, for tests/contract/test_nri_descriptor.py.
//
//	nri-plugin -descriptor               every message, field, enum and call, one a line and sorted
//	nri-plugin -socket PATH [-grow N]    a plugin; prints a line of JSON for each call; CreateContainer adds a variable GROWN of N bytes
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

type plugin struct {
	mutex sync.Mutex
	grow  int
}

type line struct {
	Call      string `json:"call"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
	Pods      int    `json:"pods,omitempty"`
	Total     int    `json:"containers,omitempty"`
	Bytes     int    `json:"bytes,omitempty"`
}

func (p *plugin) say(each line) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(each); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (p *plugin) event(call string, pod *api.PodSandbox, container *api.Container) {
	each := line{Call: call, Pod: pod.GetId(), Container: container.GetId(), Bytes: proto.Size(pod)}
	if container != nil {
		each.Bytes += proto.Size(container)
	}
	p.say(each)
}

func (p *plugin) Configure(_ context.Context, _, runtime, version string) (api.EventMask, error) {
	p.say(line{Call: "Configure " + runtime + " " + version})
	return 0, nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, all []*api.Container) ([]*api.ContainerUpdate, error) {
	size := 0
	for _, each := range all {
		size += proto.Size(each)
	}
	p.say(line{Call: "Synchronize", Pods: len(pods), Total: len(all), Bytes: size})
	return nil, nil
}

func (p *plugin) Shutdown(context.Context) { p.say(line{Call: "Shutdown"}) }

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.event("RunPodSandbox", pod, nil)
	return nil
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.event("StopPodSandbox", pod, nil)
	return nil
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.event("RemovePodSandbox", pod, nil)
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) (
	*api.ContainerAdjustment, []*api.ContainerUpdate, error,
) {
	p.event("CreateContainer", pod, container)
	adjust := &api.ContainerAdjustment{}
	adjust.AddEnv("GROWN", strings.Repeat("g", p.grow))
	adjust.AddAnnotation("grown", strings.Repeat("g", p.grow))
	return adjust, nil, nil
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) error {
	p.event("PostCreateContainer", pod, container)
	return nil
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, container *api.Container) ([]*api.ContainerUpdate, error) {
	p.event("StopContainer", pod, container)
	return nil, nil
}

func (p *plugin) ValidateContainerAdjustment(_ context.Context, request *api.ValidateContainerAdjustmentRequest) error {
	owners := request.GetOwners()
	id := request.GetContainer().GetId()
	if owner, ok := owners.EnvOwner(id, "GROWN"); !ok || owner == "" {
		return fmt.Errorf("nobody owns GROWN of %s", id)
	}
	p.say(line{Call: "ValidateContainerAdjustment", Container: id, Bytes: proto.Size(request)})
	return nil
}

func main() {
	descriptor := flag.Bool("descriptor", false, "print the interface")
	socket := flag.String("socket", api.DefaultSocketPath, "where the runtime listens")
	grow := flag.Int("grow", 0, "bytes of the variable and of the annotation that are added")
	flag.Parse()
	if *descriptor {
		print(api.File_pkg_api_api_proto)
		return
	}
	made, err := stub.New(&plugin{grow: *grow}, stub.WithPluginName("go"), stub.WithPluginIdx("50"), stub.WithSocketPath(*socket))
	if err == nil {
		err = made.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// print writes the lines that tests/contract/cri_descriptor writes for CRI.
func print(file protoreflect.FileDescriptor) {
	var lines []string
	add := func(words ...any) { lines = append(lines, strings.TrimSuffix(fmt.Sprintln(words...), "\n")) }
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
			add("call", service.Name(), method.Name(), local(method.Input().FullName()), local(method.Output().FullName()))
		}
	}
	sort.Strings(lines)
	if _, err := os.Stdout.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
