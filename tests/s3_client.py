"""AWS Signature Version 4 and a small client of S3-compatible stores, for tests: written from the published description, apart from the program's own."""
import hashlib
import hmac
import http.client
import ssl
import time
import urllib.parse
import xml.etree.ElementTree


def signature(secret, *, method, path, query, headers, names, payload, stamp, region):
    """The hexadecimal digits. path: decoded; query: pairs, decoded; headers: by lower-case name; names: those that are signed; payload: the header's word."""
    asked = "&".join(f"{urllib.parse.quote(n, safe='-._~')}={urllib.parse.quote(v, safe='-._~')}" for n, v in sorted(query))
    lines = "".join(f"{n}:{' '.join(headers[n].split())}\n" for n in names)
    request = "\n".join([method, urllib.parse.quote(path, safe="/-._~"), asked, lines, ";".join(names), payload])
    day = stamp[:8]
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, f"{day}/{region}/s3/aws4_request", hashlib.sha256(request.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class Client:
    """One bucket, at an address "https://HOST:PORT" whose certificate that CA has signed (ca: a file; None for http)."""

    def __init__(self, url, bucket, access, secret, ca=None, region="us-east-1"):
        self.url, self.bucket, self.access, self.secret, self.region = urllib.parse.urlsplit(url), bucket, access, secret, region
        self.tls = ssl.create_default_context(cafile=ca) if self.url.scheme == "https" else None

    def ask(self, method, key="", query=(), body=b"", skew_s=0):
        """(status, headers, body)."""
        path = f"/{self.bucket}/{key}" if key else f"/{self.bucket}"
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + skew_s))
        headers = {"host": self.url.netloc, "x-amz-content-sha256": hashlib.sha256(body).hexdigest(), "x-amz-date": stamp}
        names = sorted(headers)
        signed = signature(self.secret, method=method, path=path, query=query, headers=headers, names=names, payload=headers["x-amz-content-sha256"], stamp=stamp, region=self.region)
        headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={self.access}/{stamp[:8]}/{self.region}/s3/aws4_request,SignedHeaders={';'.join(names)},Signature={signed}"
        link = http.client.HTTPSConnection(self.url.netloc, timeout=60, context=self.tls) if self.tls else http.client.HTTPConnection(self.url.netloc, timeout=60)
        target = urllib.parse.quote(path, safe="/-._~") + ("?" + "&".join(f"{urllib.parse.quote(n, safe='')}={urllib.parse.quote(v, safe='')}" for n, v in query) if query else "")
        try:
            link.request(method, target, body, headers)
            answer = link.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            link.close()

    def make(self):
        status, _, body = self.ask("PUT")
        if status != 200:
            raise OSError(f"the store makes no bucket: {status} {body[:300]}")

    def get(self, key):
        status, _, body = self.ask("GET", key)
        if status != 200:
            raise OSError(f"the store gives no {key}: {status} {body[:300]}")
        return body

    def keys(self, prefix=""):
        """Of all objects that begin so, over as many pages as there are."""
        found, query = [], [("list-type", "2"), ("prefix", prefix)]
        while True:
            status, _, body = self.ask("GET", query=query)
            if status != 200:
                raise OSError(f"the store lists nothing: {status} {body[:300]}")
            page = xml.etree.ElementTree.fromstring(body)
            space = page.tag.partition("}")[0] + "}" if page.tag.startswith("{") else ""
            found += [entry.findtext(f"{space}Key") for entry in page.iter(f"{space}Contents")]
            token = page.findtext(f"{space}NextContinuationToken")
            if not token:
                return found
            query = [("continuation-token", token), ("list-type", "2"), ("prefix", prefix)]
