package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	core "k8s.io/api/core/v1"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/metrics-server/pkg/api"
	generatedopenapi "sigs.k8s.io/metrics-server/pkg/api/generated/openapi"
	"sigs.k8s.io/metrics-server/pkg/scraper/client"
	"sigs.k8s.io/metrics-server/pkg/server"
)

// resolution is the shortest that metrics-server supports: autoscaling is as fresh as this.
const resolution = 10 * time.Second

// runMetricsServer serves metrics.k8s.io until it is ended.
//
// metrics-server's own command is made for an older Kubernetes than ours, and its newer releases for
// newer libraries, with which all of Kubernetes would be compiled again. Its packages fit, so only
// what reads its flags is written anew here, with the few that a single node needs.
func runMetricsServer() int {
	kubeconfig := flag.String("kubeconfig", "", "of a user with the rights of system:metrics-server")
	address := flag.String("bind-address", "", "the address to serve on")
	port := flag.Int("secure-port", 0, "the port to serve on")
	certificates := flag.String("cert-dir", "", "the folder for its certificate, made if need be")
	flag.Parse()
	if err := serveMetrics(*kubeconfig, net.ParseIP(*address), *port, *certificates); err != nil {
		fmt.Fprintf(os.Stderr, "metrics-server: %v\n", err)
		return 1
	}
	return 0
}

func serveMetrics(kubeconfig string, address net.IP, port int, certificates string) error {
	user, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	serving, err := metricsAPIServer(kubeconfig, address, port, certificates)
	if err != nil {
		return err
	}
	config := server.Config{
		Apiserver:        serving,
		Rest:             user,
		Kubelet:          kubeletClient(user),
		MetricResolution: resolution,
		ScrapeTimeout:    resolution * 9 / 10,
	}
	ready, err := config.Complete()
	if err != nil {
		return err
	}
	return ready.RunUntil(genericapiserver.SetupSignalHandler())
}

func metricsAPIServer(kubeconfig string, address net.IP, port int, certificates string) (*genericapiserver.Config, error) {
	secure := genericoptions.NewSecureServingOptions().WithLoopback()
	secure.BindAddress, secure.BindPort = address, port
	secure.ServerCert.CertDirectory = certificates
	if err := secure.MaybeDefaultWithSelfSignedCerts("localhost", nil, []net.IP{address}); err != nil {
		return nil, err
	}
	config := genericapiserver.NewConfig(api.Codecs)
	if err := secure.ApplyTo(&config.SecureServing, &config.LoopbackClientConfig); err != nil {
		return nil, err
	}
	authentication := genericoptions.NewDelegatingAuthenticationOptions()
	authentication.RemoteKubeConfigFile = kubeconfig
	if err := authentication.ApplyTo(&config.Authentication, config.SecureServing, nil); err != nil {
		return nil, err
	}
	authorization := genericoptions.NewDelegatingAuthorizationOptions()
	authorization.RemoteKubeConfigFile = kubeconfig
	if err := authorization.ApplyTo(&config.Authorization); err != nil {
		return nil, err
	}
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	namer := openapinamer.NewDefinitionNamer(api.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generatedopenapi.GetOpenAPIDefinitions, namer)
	return config, nil
}

// kubeletClient reaches kubelets at their nodes' addresses. Their certificates are their own.
func kubeletClient(user *rest.Config) *client.KubeletClientConfig {
	config := rest.CopyConfig(user)
	config.TLSClientConfig = rest.TLSClientConfig{Insecure: true}
	return &client.KubeletClientConfig{
		Client:              *config,
		AddressTypePriority: []core.NodeAddressType{core.NodeInternalIP},
		Scheme:              "https",
		DefaultPort:         10250,
	}
}
