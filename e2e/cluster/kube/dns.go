package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/clientcmd"
)

const zone = ".svc.cluster.local."

// dns answers for the names of services, and of the pods of headless ones. It knows no other names:
// there is no world outside of the test cluster.
type dns struct {
	services  corelisters.ServiceLister
	endpoints discoverylisters.EndpointSliceLister
}

func dnsMain() int {
	flags := flag.NewFlagSet("dns", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "how to find the API server")
	listen := flags.String("listen", "127.0.0.1:53", "address for UDP and TCP")
	_ = flags.Parse(os.Args[1:])
	if err := serveDNS(*kubeconfig, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "dns:", err)
	}
	return 1
}

func serveDNS(kubeconfig, listen string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, time.Hour)
	d := &dns{
		services:  factory.Core().V1().Services().Lister(),
		endpoints: factory.Discovery().V1().EndpointSlices().Lister(),
	}
	packets, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	streams, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	factory.Start(context.Background().Done())
	go func() {
		for {
			connection, err := streams.Accept()
			if err != nil {
				return
			}
			go d.stream(connection)
		}
	}()
	buffer := make([]byte, 4096)
	for {
		length, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if answer := d.answer(buffer[:length]); answer != nil {
			_, _ = packets.WriteTo(answer, from)
		}
	}
}

// stream serves the questions of a TCP connection, each with its length before it.
func (d *dns) stream(connection net.Conn) {
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	buffer := make([]byte, 2+65535)
	for {
		filled := 0
		for filled < 2 || filled < 2+int(buffer[0])<<8+int(buffer[1]) {
			length, err := connection.Read(buffer[filled:])
			if err != nil {
				return
			}
			filled += length
		}
		answer := d.answer(buffer[2:filled])
		if answer == nil {
			return
		}
		answer = append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)
		if _, err := connection.Write(answer); err != nil {
			return
		}
	}
}

func (d *dns) answer(packet []byte) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(packet)
	if err != nil {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	addresses, known := d.look(strings.ToLower(question.Name.String()))
	reply := dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired}
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	builder := dnsmessage.NewBuilder(nil, reply)
	builder.EnableCompression()
	if builder.StartQuestions() != nil || builder.Question(question) != nil || builder.StartAnswers() != nil {
		return nil
	}
	if question.Type == dnsmessage.TypeA || question.Type == dnsmessage.TypeALL {
		for _, address := range addresses {
			resource := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 5}
			if builder.AResource(resource, dnsmessage.AResource{A: address}) != nil {
				return nil
			}
		}
	}
	finished, err := builder.Finish()
	if err != nil {
		return nil
	}
	return finished
}

// look finds the addresses of `SERVICE.NAMESPACE.svc.cluster.local.` or of a pod `HOST.SERVICE.…`.
func (d *dns) look(name string) ([][4]byte, bool) {
	inner, ours := strings.CutSuffix(name, zone)
	parts := strings.Split(inner, ".")
	if !ours || len(parts) < 2 || len(parts) > 3 {
		return nil, false
	}
	namespace, name, host := parts[len(parts)-1], parts[len(parts)-2], ""
	if len(parts) == 3 {
		host = parts[0]
	}
	service, err := d.services.Services(namespace).Get(name)
	if err != nil {
		return nil, false
	}
	if service.Spec.ClusterIP != core.ClusterIPNone && host == "" {
		return parse(nil, service.Spec.ClusterIP), true
	}
	selector := labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: name})
	slices, err := d.endpoints.EndpointSlices(namespace).List(selector)
	if err != nil {
		return nil, false
	}
	var found [][4]byte
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready || service.Spec.PublishNotReadyAddresses
			named := endpoint.Hostname != nil && *endpoint.Hostname == host
			if (host == "" && ready) || (host != "" && named) {
				for _, address := range endpoint.Addresses {
					found = parse(found, address)
				}
			}
		}
	}
	return found, host == "" || len(found) > 0
}

func parse(found [][4]byte, text string) [][4]byte {
	if address := net.ParseIP(text).To4(); address != nil {
		found = append(found, [4]byte(address))
	}
	return found
}
