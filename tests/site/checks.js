// What tests/site/checks.py asks of a page, as methods of `checks`.
globalThis.checks = {};

// MathJax has typeset all of a page once its first promise is kept. Pictures further down may wait
// for the reader.
checks.settle = async () => {
    const late = new Promise(resolve => setTimeout(resolve, 60000));
    if (window.MathJax?.startup?.promise) await Promise.race([MathJax.startup.promise, late]);
    for (const image of document.images) image.loading = "eager";
    await Promise.race([Promise.all([...document.images].map(image => image.decode().catch(() => null))), late]);
};

// What a page shows, as JSON.
checks.facts = () => {
    const all = selector => [...document.querySelectorAll(selector)];
    const short = text => text.trim().replace(/\s+/g, " ").slice(0, 90);
    const maths = all(".math");
    const undefinedMacros = all("mjx-assistive-mml mtext").filter(text => text.textContent.trim().startsWith("\\"));
    const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const elsewhere = "pre, code, .sig, script, style, noscript, textarea, mjx-container, .math";
    for (let node; (node = walker.nextNode());) {
        if (!node.data.trim() || node.parentElement.closest(elsewhere)) continue;
        // the text of a role is code to Markdown
        texts.push(node.data + (node.nextSibling?.nodeName === "CODE" ? "`" : ""));
    }
    const ids = all("[id]").map(element => element.id);
    return {
        title: document.querySelector("h1")?.firstChild?.textContent ?? "",
        maths: maths.length,
        raw: maths.filter(math => !math.querySelector("mjx-container")).map(math => short(math.textContent)),
        wrong: [...all("mjx-merror, [data-mjx-error]"), ...undefinedMacros]
            .map(error => short(error.getAttribute("data-mjx-error") || error.textContent)),
        texts: [document.title, ...texts, ...all("[alt], [aria-label], [title]")
            .filter(element => !element.closest("mjx-container")).flatMap(element =>
                ["alt", "aria-label", "title"].map(name => element.getAttribute(name)).filter(Boolean))],
        unresolved: all(".system-message, .problematic").map(element => short(element.textContent)),
        images: [...document.images].map(image => ({source: image.getAttribute("src") ?? "", alt: image.getAttribute("alt"),
            shown: image.complete && image.naturalWidth > 0})),
        ids: [...new Set(ids)],
        twice: [...new Set(ids.filter((id, index) => ids.indexOf(id) !== index))],
        links: all("a[href], area[href]").map(link => ({written: link.getAttribute("href"),
            meant: link.href.baseVal ? new URL(link.href.baseVal, document.baseURI).href : link.href})),  // in a formula
        hints: all("link[rel~=preconnect], link[rel~=dns-prefetch]").map(link => link.href),
        captions: all(".caption-number").map(number => short(number.textContent)),
        equations: all(".eqno").map(number => short(number.firstChild?.textContent ?? "")),
    };
};

// Elements that stick out of the window and are not inside something that scrolls by itself; the
// innermost ones say most.
checks.sideways = () => {
    const root = document.documentElement, width = window.innerWidth;
    if (root.scrollWidth <= width) return null;
    const scrolls = element => {
        for (let above = element.parentElement; above && above !== document.body; above = above.parentElement)
            if (getComputedStyle(above).overflowX !== "visible") return true;
        return false;
    };
    const wide = [...document.body.querySelectorAll("*")]
        .filter(element => element.getBoundingClientRect().right > width + 1 && !scrolls(element));
    const inner = wide.filter(element => !wide.some(other => other !== element && element.contains(other)));
    const name = ({tagName, id, classList}) =>
        tagName.toLowerCase() + (id ? "#" + id : "") + [...classList].map(word => "." + word).join("");
    return `${root.scrollWidth} pixels: ` + inner.slice(0, 3).map(name).join(", ");
};

// The ground under a figure is its own background, or that of what lies below it.
checks.grounds = () => [...document.querySelectorAll("main img, article img, figure img")]
    .filter(image => image.naturalWidth).map(image => {
    for (let element = image; element; element = element.parentElement) {
        const [red, green, blue, alpha = 1] = getComputedStyle(element).backgroundColor.match(/[\d.]+/g).map(Number);
        if (alpha > 0.9) return {
            source: image.getAttribute("src"),
            light: Math.min(red, green, blue) >= 200,
            follows: getComputedStyle(image).filter.includes("invert"),
        };
    }
    return {source: image.getAttribute("src"), light: false, follows: false};
});

// What is folded is opened first, for its colours and widths count as well.
checks.unfold = () => document.querySelectorAll("details").forEach(fold => { fold.open = true; });

// The thousands of elements inside formulae took axe seconds a page and hold no text for it: a box
// of the same size stands in.
checks.withoutFormulae = () => {
    const formulae = [...document.querySelectorAll("mjx-container")].map(formula => [formula, formula.getBoundingClientRect()]);
    for (const [formula, size] of formulae) {
        const box = document.createElement("span");
        box.className = "formula-box";
        box.style.cssText = `display: inline-block; width: ${size.width}px; height: ${size.height}px; vertical-align: middle`;
        formula.replaceWith(box);
    }
    document.head.insertAdjacentHTML("beforeend", "<style>.looks-alike { visibility: hidden !important; } " +
        "*, ::before, ::after { transition: none !important; animation: none !important; }</style>");
};

// preload: axe would fetch the style sheets, which a page from disk is not allowed to.
checks.runAxe = async ({rules, extra, exceptions}) => {
    const contrast = rules.length === 1 && rules[0] === "color-contrast";
    const options = {preload: false, elementRef: true, resultTypes: contrast ? ["violations", "passes"] : ["violations"],
        ...(rules.length ? {runOnly: {type: "rule", values: rules}}
        : {rules: Object.fromEntries([["color-contrast", {enabled: false}], ...extra.map(rule => [rule, {enabled: true}])])})};

    // axe measures the contrast of each of a thousand table cells anew. Of the pieces of text that share their own style and
    // that of all that lies around them, the longest is enough; the others keep their place, unseen. Where axe can not tell by
    // the longest, all are shown to it.
    const unseen = element => element.classList.add("looks-alike"), seen = element => element.classList.remove("looks-alike");
    const groups = new Map(), around = new Map([[null, ""]]);
    const look = element => {
        if (!around.has(element)) {
            const style = getComputedStyle(element);
            around.set(element, look(element.parentElement) + "|" + [style.backgroundColor, style.backgroundImage, style.opacity,
                style.filter, style.mixBlendMode, style.position, style.visibility, style.textShadow]);
        }
        return around.get(element);
    };
    for (const element of contrast ? document.querySelectorAll("main *") : []) {
        const box = element.getBoundingClientRect();
        if (!element.textContent.trim() || !box.width || element.querySelector(":scope > :not(.formula-box)")) continue;
        const style = getComputedStyle(element);
        const key = [element.tagName, style.color, style.fontSize, style.fontWeight, look(element)].join();
        groups.set(key, [...(groups.get(key) ?? []), element]);
    }
    const results = [], alike = [...groups.values()].map(group => group.sort((one, other) =>
        other.textContent.trim().length - one.textContent.trim().length));
    alike.forEach(([longest, ...others]) => others.forEach(unseen));
    results.push(await axe.run(document, options));
    const told = new Set([...results[0].violations, ...results[0].passes]
        .flatMap(({nodes}) => nodes.map(({element}) => element)));
    alike.flat().forEach(seen);
    const untold = alike.filter(([longest, ...others]) => others.length && !told.has(longest)).flat();
    if (untold.length) results.push(await axe.run({include: untold}, options));

    const found = results.flatMap(({violations}) => violations)
        .filter(({impact}) => impact === "critical" || impact === "serious");
    return found.flatMap(({id, nodes}) => nodes.map(({target, html, any, element}) => {
        const colours = any.map(check => check.data).find(data => data?.contrastRatio);
        return {rule: id, selector: target.flat().join(" "), html: html.slice(0, 90),
            colours: colours ? `${colours.fgColor} on ${colours.bgColor} is ${colours.contrastRatio}` : "",
            passed: exceptions.some(([rule, allowed]) => rule === id && element?.matches(allowed))};
    })).filter(({passed}) => !passed);
};

// Whether the search shows all of these pages.
checks.found = pages => {
    const shown = [...document.querySelectorAll("#search-results a")]
        .filter(link => link.textContent.trim()).map(link => link.href.replace(/[?#].*/, ""));
    return pages.every(page => shown.includes(page));
};
