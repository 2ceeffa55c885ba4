// Dockerfile-check applies BuildKit's own rules to the Dockerfile on standard input, without a daemon.
//
// The output is BuildKit's JSON: the list "warnings" (ruleName, detail, location) and, for a Dockerfile that cannot be
// built at all, "buildError".
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	digest "github.com/opencontainers/go-digest"
)

// limit is the size of the largest Dockerfile that is read, in bytes.
const limit = 1 << 20

// offline answers for each base image without asking its registry. The rules need a configuration, not its content.
type offline struct{}

func (offline) ResolveImageConfig(
	_ context.Context, reference string, _ sourceresolver.Opt,
) (string, digest.Digest, []byte, error) {
	config := []byte(`{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/bin:/usr/bin:/bin"]}}`)
	return reference, digest.FromBytes(config), config, nil
}

func check(ctx context.Context, from io.Reader, to io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(from, limit))
	if err != nil {
		return err
	}
	source := llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", text)
	// The results read the lines of the source from here. A daemon would set it.
	if source.Definition, err = llb.Scratch().Marshal(ctx); err != nil {
		return err
	}
	options := dockerfile2llb.ConvertOpt{SourceMap: source, MetaResolver: offline{}}
	results, err := dockerfile2llb.DockerfileLint(ctx, text, options)
	if err != nil {
		return err
	}
	results.Sources = nil
	return json.NewEncoder(to).Encode(results)
}

func main() {
	if err := check(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
