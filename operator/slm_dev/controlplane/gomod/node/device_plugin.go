package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// pollInterval is how late a change of the file of unhealthy devices, or a new kubelet, may be seen.
const pollInterval = 500 * time.Millisecond

// registerTimeout bounds one call to the kubelet; a call that fails is made again.
const registerTimeout = 5 * time.Second

// simulatedGPUs offers devices that stand for GPUs: a name each, and no file of /dev behind it.
type simulatedGPUs struct {
	deviceplugin.UnimplementedDevicePluginServer
	names         []string
	unhealthyFile string
}

// GetDevicePluginOptions says that the kubelet need not call anything before containers start.
func (*simulatedGPUs) GetDevicePluginOptions(
	context.Context, *deviceplugin.Empty,
) (*deviceplugin.DevicePluginOptions, error) {
	return &deviceplugin.DevicePluginOptions{}, nil
}

// ListAndWatch sends the list of devices at once, and again whenever the health of one changes.
func (gpus *simulatedGPUs) ListAndWatch(
	_ *deviceplugin.Empty, stream grpc.ServerStreamingServer[deviceplugin.ListAndWatchResponse],
) error {
	var sent map[string]bool
	for {
		unhealthy, err := gpus.unhealthy()
		if err != nil {
			// A file that cannot be read says nothing about the devices: keep what is known.
			log.Printf("health stays as it is: %v", err)
		} else if sent == nil || !maps.Equal(sent, unhealthy) {
			if err := stream.Send(&deviceplugin.ListAndWatchResponse{Devices: gpus.devices(unhealthy)}); err != nil {
				return err
			}
			log.Printf("%d devices, of which unhealthy: %v", len(gpus.names), slices.Sorted(maps.Keys(unhealthy)))
			sent = unhealthy
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(pollInterval):
		}
	}
}

// Allocate tells a container which GPUs are its own, by the variable that NVIDIA's plugin uses.
func (*simulatedGPUs) Allocate(
	_ context.Context, request *deviceplugin.AllocateRequest,
) (*deviceplugin.AllocateResponse, error) {
	response := &deviceplugin.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		visible := strings.Join(container.DevicesIds, ",")
		response.ContainerResponses = append(response.ContainerResponses, &deviceplugin.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": visible},
		})
	}
	return response, nil
}

func (gpus *simulatedGPUs) devices(unhealthy map[string]bool) []*deviceplugin.Device {
	var devices []*deviceplugin.Device
	for _, name := range gpus.names {
		health := deviceplugin.Healthy
		if unhealthy[name] {
			health = deviceplugin.Unhealthy
		}
		devices = append(devices, &deviceplugin.Device{ID: name, Health: health})
	}
	return devices
}

// unhealthy returns the names in the file, one a line. No file means that all devices are healthy.
func (gpus *simulatedGPUs) unhealthy() (map[string]bool, error) {
	text, err := os.ReadFile(gpus.unhealthyFile)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	unhealthy := map[string]bool{}
	for _, name := range strings.Fields(string(text)) {
		if !slices.Contains(gpus.names, name) {
			log.Printf("%s names %q, which is none of %v", gpus.unhealthyFile, name, gpus.names)
			continue
		}
		unhealthy[name] = true
	}
	return unhealthy, nil
}

// runDevicePlugin serves simulated GPUs to the kubelet until SIGINT or SIGTERM.
func runDevicePlugin() int {
	resource := flag.String("resource", "nvidia.com/gpu", "the resource's name")
	count := flag.Int("count", 2, "how many devices the node has; their names are GPU-sim-0 and so on")
	unhealthyFile := flag.String("unhealthy-file", "",
		"names the unhealthy devices, one a line; read again twice a second")
	folder := flag.String("folder", deviceplugin.DevicePluginPath, "the kubelet's folder of plugin sockets")
	flag.Parse()
	if *count < 0 || *unhealthyFile == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "slm-device-plugin: give --count of at least 0, --unhealthy-file, and no arguments")
		return 2
	}
	gpus := &simulatedGPUs{unhealthyFile: *unhealthyFile}
	for number := range *count {
		gpus.names = append(gpus.names, fmt.Sprintf("GPU-sim-%d", number))
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	for stop.Err() == nil {
		if err := serve(stop, gpus, *resource, *folder); err != nil {
			log.Printf("trying again: %v", err)
		}
		select {
		case <-stop.Done():
		case <-time.After(pollInterval):
		}
	}
	return 0
}

// serve registers with the kubelet that is running and serves it until that kubelet is gone.
//
// A kubelet that starts removes every socket in its folder, and wants plugins to register anew.
func serve(stop context.Context, gpus *simulatedGPUs, resource, folder string) error {
	kubelet := filepath.Join(folder, "kubelet.sock")
	started, err := os.Stat(kubelet)
	if err != nil {
		return err
	}
	own := filepath.Join(folder, "slm-simulated-gpus.sock")
	if err := os.Remove(own); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", own)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	deviceplugin.RegisterDevicePluginServer(server, gpus)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	if err := register(stop, kubelet, filepath.Base(own), resource); err != nil {
		return fmt.Errorf("the kubelet did not register %s: %w", resource, err)
	}
	log.Printf("registered %s with the kubelet at %s", resource, kubelet)
	for {
		select {
		case <-stop.Done():
			return nil
		case <-time.After(pollInterval):
		}
		now, err := os.Stat(kubelet)
		if err != nil || !os.SameFile(started, now) || !started.ModTime().Equal(now.ModTime()) {
			return fmt.Errorf("the kubelet at %s ended or started anew", kubelet)
		}
		if _, err := os.Stat(own); err != nil {
			return fmt.Errorf("the plugin's socket was removed: %w", err)
		}
	}
}

func register(stop context.Context, kubelet, endpoint, resource string) error {
	connection, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	deadline, cancel := context.WithTimeout(stop, registerTimeout)
	defer cancel()
	_, err = deviceplugin.NewRegistrationClient(connection).Register(deadline, &deviceplugin.RegisterRequest{
		Version:      deviceplugin.Version,
		Endpoint:     endpoint,
		ResourceName: resource,
	})
	return err
}
