// The reference for Go templates: the questions of src/text/probe.c (one JSON object a line), answered by Go itself and by
// package template of Ollama.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	gotemplate "text/template"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/thinking"
)

type question struct {
	Go       string
	Data     any
	Messages []api.Message
	Tools    api.Tools
	Thinking *int
	Level    string
	Prompt   string
	Suffix   string
	Tags     bool
}

// Over data: Ollama's functions and options, nothing else of it.
func plain(q question, w io.Writer) error {
	t, err := template.Parse(q.Go)
	if err != nil {
		return err
	}
	var under *gotemplate.Template = t.Template
	return under.Execute(w, q.Data)
}

func ollama(q question, w io.Writer) error {
	t, err := template.Parse(q.Go)
	if err != nil {
		return err
	}
	if q.Tags {
		open, end := thinking.InferTags(t.Template)
		vars, _ := t.Vars()
		_, err := fmt.Fprintf(w, "%s|%s|%s", open, end, strings.Join(vars, ","))
		return err
	}
	v := template.Values{Messages: q.Messages, Tools: q.Tools, Prompt: q.Prompt, Suffix: q.Suffix}
	if q.Thinking != nil && *q.Thinking >= 0 {
		v.IsThinkSet = true
		v.Think = *q.Thinking > 0
		if v.Think {
			v.ThinkLevel = "medium"
			if q.Level != "" {
				v.ThinkLevel = q.Level
			}
		}
	}
	return t.Execute(w, v)
}

func answer(line []byte) (text string, err error) {
	// Ollama panics on some legacy templates.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	var q question
	if err := json.Unmarshal(line, &q); err != nil {
		return "", err
	}
	var b bytes.Buffer
	if bytes.Contains(line, []byte(`"data":`)) {
		err = plain(q, &b)
	} else {
		err = ollama(q, &b)
	}
	return b.String(), err
}

func main() {
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 1 {
			text, failure := answer(line)
			if failure != nil {
				out.Encode(map[string]string{"error": failure.Error()})
			} else {
				out.Encode(map[string]string{"text": text})
			}
		}
		if err != nil {
			return
		}
	}
}
