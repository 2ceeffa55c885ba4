// kubelet serves the streaming endpoints of a kubelet for the tests: exec and containerLogs.
//
// It uses the server library of container runtimes (k8s.io/kubelet/pkg/cri/streaming). The API server translates the
// WebSocket of its client (v5.channel.k8s.io) to SPDY (v4.channel.k8s.io), also in Kubernetes 1.35. The
// commands of exec run on this machine, with an empty environment. Logs are files in a folder. It prints its port
// when it is ready.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
	remotecommandconsts "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	server "k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const idle = 10 * time.Minute

type kubelet struct{ folder string }

func main() {
	certificate := flag.String("certificate", "", "serving certificate")
	key := flag.String("key", "", "its private key")
	clients := flag.String("client-ca", "", "authority of the API server's client certificate")
	folder := flag.String("folder", "", "folder with NAMESPACE_POD_CONTAINER.log files; commands run in it")
	flag.Parse()
	if err := run(*certificate, *key, *clients, *folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(certificate, key, clients, folder string) error {
	authority, err := os.ReadFile(clients)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	one := kubelet{folder}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", one.exec)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", one.logs)
	serving := &http.Server{
		Handler:   mux,
		TLSConfig: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool},
		// HTTP/2 has no upgrade.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	return serving.ServeTLS(listener, certificate, key)
}

func (k kubelet) exec(w http.ResponseWriter, r *http.Request) {
	options, err := server.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod := r.PathValue("namespace") + "_" + r.PathValue("pod")
	command := r.URL.Query()["command"]
	server.ServeExec(w, r, k, pod, "", r.PathValue("container"), command, options, idle, 30*time.Second, remotecommandconsts.SupportedStreamingProtocols)
}

// ExecInContainer runs a command on this machine.
func (k kubelet) ExecInContainer(
	_ context.Context, pod string, _ types.UID, container string, command []string, in io.Reader,
	out, errOut io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	process := exec.Command(command[0], command[1:]...)
	process.Dir = k.folder
	process.Env = []string{"PATH=/usr/bin:/bin", "POD=" + pod, "CONTAINER=" + container}
	process.Stdin, process.Stdout, process.Stderr = in, out, errOut
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := process.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

// logs answers as the kubelet does for a container whose log is a file.
func (k kubelet) logs(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	name := r.PathValue("namespace") + "_" + r.PathValue("pod") + "_" + r.PathValue("container")
	if query.Get("previous") == "true" {
		name += ".previous"
	}
	file, err := os.Open(filepath.Join(k.folder, name+".log"))
	if err != nil {
		http.Error(w, "the log does not exist", http.StatusNotFound)
		return
	}
	defer file.Close()
	var source io.Reader = file
	if lines, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		source = tail(file, lines)
	}
	if query.Get("follow") == "true" {
		source = follow{r.Context(), file}
	}
	if limit, err := strconv.ParseInt(query.Get("limitBytes"), 10, 64); err == nil {
		source = io.LimitReader(source, limit)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Transfer-Encoding", "chunked")
	io.Copy(flushing{w}, source)
}

// tail returns the last lines of a regular file. An endless file has no last line, so it starts at once.
func tail(file *os.File, lines int) io.Reader {
	status, err := file.Stat()
	if err != nil || !status.Mode().IsRegular() {
		return file
	}
	var last [][]byte
	reader := bufio.NewReader(file)
	for {
		line, err := reader.ReadBytes('\n')
		if len(line) > 0 {
			last = append(last, line)
		}
		if len(last) > lines {
			last = last[1:]
		}
		if err != nil {
			return bytes.NewReader(bytes.Join(last, nil))
		}
	}
}

// follow reads a file that grows, until the file FILE.ended exists.
type follow struct {
	ctx  context.Context
	file *os.File
}

func (f follow) Read(buffer []byte) (int, error) {
	for {
		_, missing := os.Stat(f.file.Name() + ".ended")
		count, err := f.file.Read(buffer)
		if count > 0 || (err != nil && err != io.EOF) {
			return count, err
		}
		if missing == nil || f.ctx.Err() != nil {
			return 0, io.EOF
		}
		time.Sleep(20 * time.Millisecond)
	}
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(data []byte) (int, error) {
	count, err := f.ResponseWriter.Write(data)
	f.ResponseWriter.(http.Flusher).Flush()
	return count, err
}
