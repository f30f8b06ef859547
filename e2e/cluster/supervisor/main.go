// Command cluster starts a real Kubernetes cluster of one machine in a folder, and ends it without a
// trace: etcd, the API server, the controller manager and, where the machine allows it, a scheduler and
// a full node (containerd, kubelet, kube-proxy) in namespaces of their own.
//
// See the README in the folder above.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

const usage = `cluster up    --dir DIR [--api-only] [--audit] [--foreground]
cluster down  --dir DIR
cluster status --dir DIR
cluster stop  --dir DIR PROGRAM      end one program of the control plane, by SIGKILL
cluster start --dir DIR PROGRAM      start it again, on the same port
cluster expose --dir DIR PORT        let pods reach 127.0.0.1:PORT, at the address "api" of the status
cluster load  --dir DIR ARCHIVE      give the node the images of an archive
cluster exec  --dir DIR COMMAND…     run a command inside the node
cluster image --rootfs DIR --name REF --out ARCHIVE [--entrypoint PATH] [--user ID] [--env NAME=VALUE]…
cluster check                        say whether a full node can be started here
`

// errNoNode is the exit code 3: the API can be had here, a full node cannot.
var errNoNode = errors.New("no full node here")

func main() {
	// The kernel ends a child when the thread that started it ends; so every child is started from the
	// main thread, which lives as long as the process.
	runtime.LockOSThread()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	err := run(os.Args[1], os.Args[2:])
	switch {
	case errors.Is(err, errNoNode):
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(3)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(verb string, args []string) error {
	flags := flag.NewFlagSet(verb, flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	switch verb {
	case "check":
		return nodePossible()
	case "image":
		return imageVerb(flags, args)
	case "node-init":
		return nodeInit(args)
	}
	dir := flags.String("dir", "", "")
	apiOnly := flags.Bool("api-only", false, "")
	audit := flags.Bool("audit", false, "")
	foreground := flags.Bool("foreground", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return errors.New("--dir is missing")
	}
	path, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	place := folder(path)
	switch verb {
	case "up":
		return up(place, options{APIOnly: *apiOnly, Audit: *audit}, *foreground)
	case "down":
		return down(place)
	case "status":
		return status(place)
	case "stop", "start", "expose":
		if flags.NArg() != 1 {
			return fmt.Errorf("%s: which one?", verb)
		}
		return ask(place, verb+" "+flags.Arg(0))
	case "load":
		if flags.NArg() != 1 {
			return errors.New("load: which archive?")
		}
		return load(place, flags.Arg(0))
	case "exec":
		return enter(place, flags.Args())
	}
	fmt.Fprint(os.Stderr, usage)
	return fmt.Errorf("no verb %q", verb)
}
