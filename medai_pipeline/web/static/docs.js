// Starts Swagger UI or ReDoc on the page that has room for it.
"use strict";

const swagger = document.getElementById("swagger-ui");
if (swagger) {
  const token = document.querySelector("meta[name=csrf-token]").content;
  SwaggerUIBundle({
    domNode: swagger,
    url: swagger.dataset.description,
    deepLinking: true,
    requestInterceptor: (request) => {
      if (!request.headers.Authorization && token) request.headers["X-CSRF-Token"] = token;
      return request;
    },
  });
}

const redoc = document.getElementById("redoc");
if (redoc) Redoc.init(redoc.dataset.description, { disableSearch: false }, redoc);
