package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// imageConfig is the part of an image's configuration that is used here.
type imageConfig struct {
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Env        []string `json:"Env,omitempty"`
	User       string   `json:"User,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

func imageVerb(flags *flag.FlagSet, args []string) error {
	rootfs := flags.String("rootfs", "", "")
	name := flags.String("name", "", "")
	out := flags.String("out", "", "")
	user := flags.String("user", "", "")
	var entrypoint, command, env list
	flags.Var(&entrypoint, "entrypoint", "")
	flags.Var(&command, "cmd", "")
	flags.Var(&env, "env", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rootfs == "" || *name == "" || *out == "" {
		return errors.New("image: --rootfs, --name and --out are needed")
	}
	layer, err := os.CreateTemp(filepath.Dir(*out), ".layer-")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	if err := packLayer(*rootfs, layer); err != nil {
		return err
	}
	config := imageConfig{Entrypoint: entrypoint, Cmd: command, Env: env, User: *user, WorkingDir: "/"}
	return writeImage(*name, layer, config, *out)
}

// writePauseImage makes the image that holds the namespaces of each pod.
func writePauseImage(binary, out string) error {
	content, err := os.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("the program `pause` is not beside this one: run e2e/setup")
	}
	var layer bytes.Buffer
	writer := tar.NewWriter(&layer)
	header := &tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
	if err := writer.WriteHeader(header); err != nil {
		return err
	}
	if _, err := writer.Write(content); err != nil {
		return err
	}
	if err := writer.Close(); err != nil {
		return err
	}
	config := imageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535"}
	return writeImage(pauseImage, bytes.NewReader(layer.Bytes()), config, out)
}

// packLayer writes a folder as a layer; everything in it belongs to root.
func packLayer(root string, out io.Writer) error {
	writer := tar.NewWriter(out)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		header.Name = name
		if entry.IsDir() {
			header.Name += "/"
		}
		header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
		header.ModTime = time.Unix(0, 0)
		if err := writer.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(writer, file)
		return err
	})
	if err != nil {
		return err
	}
	return writer.Close()
}

// writeImage writes an archive of one image of one layer, such as `docker save` makes.
func writeImage(name string, layer io.ReadSeeker, config imageConfig, out string) error {
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	hash := sha256.New()
	size, err := io.Copy(hash, layer)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	digest := fmt.Sprintf("%x", hash.Sum(nil))
	described, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       config,
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
	})
	if err != nil {
		return err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(described))
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configName, "RepoTags": []string{name}, "Layers": []string{digest + "/layer.tar"},
	}})
	if err != nil {
		return err
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	writer := tar.NewWriter(file)
	for _, part := range []struct {
		name    string
		size    int64
		content io.Reader
	}{
		{configName, int64(len(described)), bytes.NewReader(described)},
		{digest + "/layer.tar", size, layer},
		{"manifest.json", int64(len(manifest)), bytes.NewReader(manifest)},
	} {
		if err := writer.WriteHeader(&tar.Header{Name: part.name, Mode: 0o644, Size: part.size}); err != nil {
			return err
		}
		if _, err := io.Copy(writer, part.content); err != nil {
			return fmt.Errorf("writing %s (%s bytes): %w", out, strconv.FormatInt(part.size, 10), err)
		}
	}
	if err := writer.Close(); err != nil {
		return err
	}
	return file.Close()
}
