package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority is the one certificate authority of a cluster: it signs servers and clients alike.
type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	pem         []byte
	serial      int64
}

// pair is a certificate and its key, as PEM.
type pair struct{ certificate, key []byte }

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "holdfast-e2e"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{key, certificate, encode("CERTIFICATE", der), 1}, nil
}

// sign makes a certificate that is good for a server of these names and for a client of this one.
func (a *authority) sign(name, group string, hosts []string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	a.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    a.certificate.NotBefore,
		NotAfter:     a.certificate.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if group != "" {
		template.Subject.Organization = []string{group}
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		return pair{}, err
	}
	encoded, err := encodeKey(key)
	return pair{encode("CERTIFICATE", der), encoded}, err
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return encode("EC PRIVATE KEY", der), err
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// kubeconfig is a file with which a client of this certificate finds the API server.
func (a *authority) kubeconfig(server string, client pair) []byte {
	text := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: e2e
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: e2e
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: e2e
  context: {cluster: e2e, user: e2e}
current-context: e2e
`, server, text(a.pem), text(client.certificate), text(client.key))
}

// makePKI writes every certificate, key and kubeconfig of the cluster.
func makePKI(place folder, net network) error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	accountsKey, err := encodeKey(accounts)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&accounts.PublicKey)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"pki/ca.crt": ca.pem,
		"pki/ca.key": caKey,
		"pki/sa.key": accountsKey,
		"pki/sa.pub": encode("PUBLIC KEY", public),
	}
	pairs := []struct {
		file, name, group string
		hosts             []string
	}{
		{"apiserver", "kube-apiserver", "", []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local", "127.0.0.1", net.API, net.FirstService,
		}},
		{"apiserver-client", "kube-apiserver", "system:masters", nil},
		{"node", "system:node:" + nodeName, "system:nodes", []string{nodeName, net.Node}},
	}
	for _, wanted := range pairs {
		signed, err := ca.sign(wanted.name, wanted.group, wanted.hosts)
		if err != nil {
			return err
		}
		files["pki/"+wanted.file+".crt"] = signed.certificate
		files["pki/"+wanted.file+".key"] = signed.key
	}
	server := fmt.Sprintf("https://%s:%d", net.API, net.APIPort)
	clients := []struct{ file, name, group string }{
		{"kubeconfig", "admin", "system:masters"},
		{"pki/controller-manager.conf", "system:kube-controller-manager", ""},
		{"pki/scheduler.conf", "system:kube-scheduler", ""},
		{"pki/proxy.conf", "system:kube-proxy", ""},
		{"pki/dns.conf", "holdfast-e2e-dns", "system:masters"},
		{"pki/kubelet.conf", "system:node:" + nodeName, "system:nodes"},
	}
	for _, wanted := range clients {
		signed, err := ca.sign(wanted.name, wanted.group, nil)
		if err != nil {
			return err
		}
		files[wanted.file] = ca.kubeconfig(server, signed)
		if wanted.file == "kubeconfig" {
			files["pki/admin.crt"], files["pki/admin.key"] = signed.certificate, signed.key
		}
	}
	if err := os.MkdirAll(place.path("pki"), 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(place.path(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
