package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
)

// network is where everything listens. With a node, its network namespace is joined to this one by a
// pair of virtual interfaces: what is outside the node has the address API, the node has the address
// Node, and pods and services have addresses that are routed through the node.
type network struct {
	Number       int    `json:"number"`
	API          string `json:"api"`
	Node         string `json:"node,omitempty"`
	Pods         string `json:"pods"`
	Services     string `json:"services"`
	FirstService string `json:"firstService"`
	Interface    string `json:"interface,omitempty"`
	APIPort      int    `json:"apiPort"`
	EtcdPort     int    `json:"etcdPort"`
	PeerPort     int    `json:"peerPort"`
	ManagerPort  int    `json:"managerPort"`
	SchedPort    int    `json:"schedulerPort"`
}

const nodeName = "node-1"

// locks lie beside those of the test harness, so that no two choose the same.
var locks = filepath.Join(os.TempDir(), "holdfast-e2e-ports")

// claim takes a number that no other process of these tests has taken, until this one ends.
func claim(name string) bool {
	if os.MkdirAll(locks, 0o755) != nil {
		return false
	}
	file, err := os.OpenFile(filepath.Join(locks, name), os.O_CREATE|os.O_WRONLY|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return false
	}
	if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		file.Close()
		return false
	}
	claimed = append(claimed, file)
	return true
}

// claimed keeps the files open: a lock lasts as long as its file.
var claimed []*os.File

// freePort finds a port below those that the kernel gives to outgoing connections.
func freePort() (int, error) {
	const first, last = 20_000, 32_000
	start := os.Getpid() * 7919 % (last - first)
	for step := range last - first {
		port := first + (start+step)%(last-first)
		if !claim(fmt.Sprint(port)) {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		listener.Close()
		return port, nil
	}
	return 0, errors.New("no free port")
}

func newNetwork(wanted options) (network, error) {
	n := network{API: "127.0.0.1", Number: -1}
	for number := range 200 {
		if claim(fmt.Sprintf("network-%d", number)) {
			n.Number = number
			break
		}
	}
	if n.Number < 0 {
		return n, errors.New("no free network")
	}
	n.Pods = fmt.Sprintf("10.214.%d.0/24", n.Number)
	n.Services = fmt.Sprintf("10.215.%d.0/24", n.Number)
	n.FirstService = fmt.Sprintf("10.215.%d.1", n.Number)
	if !wanted.APIOnly {
		n.API = fmt.Sprintf("10.213.%d.1", n.Number)
		n.Node = fmt.Sprintf("10.213.%d.2", n.Number)
		n.Interface = fmt.Sprintf("hfe2e%d", n.Number)
	}
	for _, port := range []*int{&n.APIPort, &n.EtcdPort, &n.PeerPort, &n.ManagerPort, &n.SchedPort} {
		var err error
		if *port, err = freePort(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// join makes the pair of interfaces, one end in the namespaces of the process, and the routes.
func (n network) join(process int) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = n.Interface
	// One that was left by a cluster whose machine was too slow to clean up.
	if old, err := netlink.LinkByName(n.Interface); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("removing the old interface %s: %w", n.Interface, err)
		}
	}
	pair := &netlink.Veth{LinkAttrs: attributes, PeerName: "eth0", PeerNamespace: netlink.NsPid(process)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("making the interface %s: %w", n.Interface, err)
	}
	link, err := netlink.LinkByName(n.Interface)
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(n.API + "/30")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("giving %s its address: %w", n.Interface, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, destination := range []string{n.Pods, n.Services} {
		_, subnet, err := net.ParseCIDR(destination)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: subnet, Gw: net.ParseIP(n.Node)}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("the route to %s: %w", destination, err)
		}
	}
	return nil
}

// leave removes the pair; the kernel would do it too, a little later.
func (n network) leave() {
	if link, err := netlink.LinkByName(n.Interface); n.Interface != "" && err == nil {
		_ = netlink.LinkDel(link)
	}
}

// joinInside sets up the other end, from inside the namespaces.
func (n network) joinInside() error {
	for _, name := range []string{"lo", "eth0"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("the interface %s: %w", name, err)
		}
		if name == "eth0" {
			address, err := netlink.ParseAddr(n.Node + "/30")
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, address); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(n.API)}); err != nil {
		return fmt.Errorf("the default route: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}
